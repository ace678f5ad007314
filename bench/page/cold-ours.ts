/** A visit with everything cached: from navigation to the first result of our engine. */

import { Model, classify, generate, openBackend, openPack, openTokenizer } from '../../engine/index.ts'
import { coldTask, finish } from './cold.ts'
import { packAt } from './pack-at.ts'

async function visit(): Promise<string> {
  const { model, text } = coldTask()
  const [pack, backend] = await Promise.all([openPack(packAt(model)), openBackend('wasm', { threads: 1 })])
  const json = async (file: string): Promise<unknown> =>
    JSON.parse(new TextDecoder().decode(await pack.file(file)))
  const [tokenizer, loaded] = await Promise.all([
    Promise.all([json('tokenizer.json'), json('tokenizer_config.json')]).then(([all, config]) =>
      openTokenizer(all, config),
    ),
    Model.open(pack, backend),
  ])
  const ids = tokenizer.encode(text)
  if (pack.manifest.spec.task === 'classify') {
    const [logits] = await classify(loaded, [ids])
    return pack.manifest.spec.labels![logits!.indexOf(logits!.reduce((a, b) => Math.max(a, b)))]!
  }
  for await (const { id } of generate(loaded, [{ prompt: ids, maxTokens: 1 }])) return tokenizer.decode([id])
  return ''
}

void finish(visit())
