/** Opening a backend that may compute for others: one that gave every known answer, here and as it is now. */
import type { Backend } from '../backends/backend.ts'
import type { Remember } from '../backends/webgpu/tune.ts'
import { admit, KIT_VERSION } from './kit.ts'
import type { Failure } from './kit.ts'

/** This device computes wrongly, and there is no other way to have it compute. */
export class KitFailed extends Error {
  override name = 'KitFailed'
  readonly failure: Failure
  constructor(what: string, failure: Failure) {
    super(`${what} computes wrongly: ${failure.name}: ${failure.detail}`.slice(0, 1000))
    this.failure = failure
  }
}

export interface AdmitOptions {
  /** Where a pass is kept, so that it is asked again only when kit, device or program change. */
  remember?: Remember
  /** Program and version: a browser's update may bring another compiler. */
  where?: string
}

export interface Admitted {
  backend: Backend
  /** What was wrong with the variants that are not used. */
  dropped: Failure[]
  /** Milliseconds the questions took; 0 where a pass was remembered. */
  ms: number
}

/**
 * Opens a backend and asks it everything. A variant that fails is dropped and the next tried.
 * @param open opens it without these variants
 * @throws KitFailed, and what open() throws
 */
export async function openAdmitted(
  open: (avoid: readonly string[]) => Promise<Backend>,
  { remember, where = '' }: AdmitOptions = {},
): Promise<Admitted> {
  const avoid: string[] = []
  const dropped: Failure[] = []
  for (;;) {
    const backend = await open(avoid)
    try {
      const key = keyOf(backend, where)
      if ((await remember?.get(key)) === KIT_VERSION) return { backend, dropped, ms: 0 }
      const { failure, ms } = await admit(backend)
      if (!failure) {
        await remember?.set(key, KIT_VERSION)
        return { backend, dropped, ms }
      }
      dropped.push(failure)
      const variant = variantOf(backend, failure)
      // Once avoided and still there: it is the last there is.
      if (!variant || avoid.includes(variant)) throw new KitFailed(backend.info.description, failure)
      avoid.push(variant)
    } catch (error) {
      await backend.close()
      throw error
    }
    await backend.close()
  }
}

/** Variants by name alone: how fast they were the last time is no part of it. */
const variantsOf = ({ info }: Backend): Array<[string, string]> =>
  Object.entries(info.variants).map(([key, found]) => [key, found.split(' ')[0]!])

function keyOf(backend: Backend, where: string): string {
  const { name, description } = backend.info
  const variants = variantsOf(backend).filter(([key]) => !key.endsWith('-failed'))
  return `kit ${name} | ${description} | ${where} | ${variants.join(' ')}`
}

/** The variant that answered wrongly, where the backend has others. */
function variantOf(backend: Backend, { kernel, rows }: Failure): string | undefined {
  // `model` too: each kernel alone was right, and which of the fused ones is wrong is not known.
  if (kernel !== 'linear' && kernel !== 'model') return undefined
  const variants = new Map(variantsOf(backend))
  const key = variants.has('linear') ? 'linear' : rows === undefined || rows <= 4 ? 'few' : 'many'
  const variant = variants.get(key)
  return variant && `${key} ${variant}`
}
