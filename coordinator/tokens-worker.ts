/** The thread behind tokens.ts. */
import { parentPort } from 'node:worker_threads'
import { openServed } from './models.ts'
import type { Served } from './models.ts'
import { encodeOne, TextError } from './tokens.ts'
import type { TokensAnswer, TokensRequest } from './tokens.ts'

const models = new Map<string, Promise<Served>>()

parentPort!.on('message', async ({ id, folder, texts, options }: TokensRequest) => {
  const reply = (answer: TokensAnswer, moved: ArrayBuffer[] = []): void =>
    parentPort!.postMessage(answer, moved)
  try {
    if (!models.has(folder)) models.set(folder, openServed(folder))
    const { tokenizer } = await models.get(folder)!
    const ids = texts.map((text, at) => encodeOne(() => tokenizer!.encode(text, options), at))
    reply({ id, ids }, ids.map((list) => list.buffer)) // prettier-ignore
  } catch (error) {
    models.delete(folder)
    const { message } = error as Error
    if (error instanceof TextError) reply({ id, code: 'text-invalid', message, at: error.at })
    else reply({ id, code: null, message, at: 0 })
  }
})
