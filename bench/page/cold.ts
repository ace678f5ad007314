/** What both visits share: the task comes in the address, the answer and its time go out on the window. */

export interface ColdTask {
  model: string
  text: string
  runtime: 'stock' | 'lean'
}

/** `ms` since the navigation began. */
export type ColdResult = { ms: number; answer: string } | { error: string }

export function coldTask(): ColdTask {
  const query = new URLSearchParams(location.search)
  return {
    model: query.get('model') ?? '',
    text: query.get('text') ?? '',
    runtime: query.get('runtime') === 'lean' ? 'lean' : 'stock',
  }
}

export async function finish(visit: Promise<string>): Promise<void> {
  const cold: ColdResult = await visit.then(
    (answer) => ({ ms: performance.now(), answer }),
    (error: unknown) => ({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  )
  Object.assign(globalThis, { cold })
}
