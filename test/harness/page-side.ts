/** The page's half of the harness: fetches a call's arguments, runs it, sends back what came of it. */
import { decode, encode } from './message.ts'

interface Call {
  module: string
  name: string
  args: unknown[]
}

async function answer(id: string): Promise<void> {
  const call = decode(await (await fetch(`/__test/${id}/args`)).bytes()) as Call
  let result: unknown
  try {
    const module = (await import(/* @vite-ignore */ `/${call.module}`)) as Record<string, unknown>
    const target = module[call.name]
    if (typeof target !== 'function') throw new TypeError(`${call.module} exports no function ${call.name}`)
    result = { value: await (target(...call.args) as unknown) }
  } catch (error) {
    result = { error: describe(error) }
  }
  let body: Uint8Array<ArrayBuffer>
  try {
    body = encode(result)
  } catch (error) {
    body = encode({ error: describe(error) })
  }
  await fetch(`/__test/${id}/result`, { method: 'POST', body })
}

function describe(error: unknown): Record<string, string> {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), stack: '' }
  const code: unknown = 'code' in error ? error.code : undefined
  return {
    name: error.name,
    message: error.message,
    stack: error.stack ?? '',
    ...(typeof code === 'string' ? { code } : {}),
  }
}

declare global {
  // Called by page.ts through the browser's protocol: only the id travels that way.
  var answerCall: typeof answer
}
globalThis.answerCall = answer
