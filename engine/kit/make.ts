/** `node engine/kit/make.ts`: writes known.json from the kernels' definitions. */
import { writeFile } from 'node:fs/promises'
import { openJs } from '../backends/js.ts'
import { sha256 } from '../pack/reader.ts'
import { digestOf, questions } from './kit.ts'

/**
 * Few, since a GPU compiles a shader for each; together they reach every kernel in each mode, with rows for every way it is
 * launched. Tests ask all there are.
 */
const chosen = [
  'embed: 9x31 of 40 ids + positions', 'embed: 33x64 of 100 ids', 'gather: 17 of', 'pool: 7 segments x31, first',
  'pool: 7 segments x31, mean, unit', 'digest: 9x97', 'rmsnorm_quant: 9x97', 'quant: 9x97, a15', 'layernorm_quant: 9x97, traced, y none', 'linear: 5x97x23', 'linear: 7x33x38', 'linear: 17x769x19',
  'linear: 5x8191x8', 'linear: 129x128x48', '2/2 heads of 6, rope, norm', '8/2 heads of 64, rope', '3/1 heads of 16, usual',
  '3/1 heads of 16, long', '4/2 heads of 30, wild scales', 'sample: 9 rows of 260 ids', 'sample: 4 rows of 20011 ids, usual',
  'norm and linear: layer, a15 0', 'model:',
] // prettier-ignore

const answers: Record<string, string> = {}
const backend = openJs()
for (const question of questions())
  if (chosen.some((part) => question.name.includes(part)))
    answers[question.name] = await digestOf(await question.ask(backend))
const version = (await sha256(new TextEncoder().encode(JSON.stringify(answers)))).slice(0, 16)
await writeFile(new URL('known.json', import.meta.url), `${JSON.stringify({ version, answers }, null, 2)}\n`)
console.log(`${Object.keys(answers).length} answers, version ${version}`)
