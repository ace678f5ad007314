/** The same visit with transformers.js, its caches on; `?runtime=lean` is its WASM-only runtime. */

import { classes } from '../contestants/model.ts'
import { loadOptions, transformers } from '../contestants/transformers.ts'
import { coldTask, finish } from './cold.ts'

async function visit(): Promise<string> {
  const { model, text, runtime } = coldTask()
  const it = await transformers(runtime, true)
  const encoder = model === 'intents-3m'
  const loader = encoder ? it.AutoModelForSequenceClassification : it.AutoModelForCausalLM
  const [tokenizer, loaded] = await Promise.all([
    it.AutoTokenizer.from_pretrained(model),
    loader.from_pretrained(model, loadOptions(runtime, 'wasm', 'fp32')),
  ])
  const inputs = tokenizer(text)
  if (encoder) {
    const { logits } = await loaded(inputs)
    return loaded.config.id2label[classes(logits.data as Float32Array, 1)[0]!]!
  }
  const out = await loaded.generate({ ...inputs, max_new_tokens: 1, do_sample: false })
  return tokenizer.decode([Number(out.data.at(-1))])
}

void finish(visit())
