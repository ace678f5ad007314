/**
 * npm run fuzz -- [--frames 1000000] [--requests 100000] [--seed N] [--json]
 *
 * Damaged frames to the parser and (one in --socket-share) over real sockets, damaged requests to a real server. Exits 1 when an
 * exception escapes, a code is wrong, memory grows, or the coordinator logs an error. A failure names the seed and the index
 * that repeat it: `--seed S --only frame:INDEX` or `request:INDEX` prints that input.
 */
import { parseArgs } from 'node:util'
import { frameOf } from './frames.ts'
import { fuzz } from './fuzz.ts'
import { corpusOf, requestOf } from './requests.ts'

const { values: args } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Math.floor(Math.random() * 2 ** 32)) },
    frames: { type: 'string', default: '1000000' },
    requests: { type: 'string', default: '100000' },
    'socket-share': { type: 'string', default: '20' },
    only: { type: 'string' },
    json: { type: 'boolean', default: false },
  },
})

const seed = Number(args.seed)
if (args.only !== undefined) {
  const [kind, index] = args.only.split(':')
  if (kind === 'frame') console.log(frameOf(seed, Number(index)).toString('hex'))
  else console.log(requestOf(corpusOf({ file: 'file-1', batch: 'batch_1' }), seed, Number(index)))
} else {
  const report = await fuzz({
    seed,
    frames: Number(args.frames),
    requests: Number(args.requests),
    socketShare: Number(args['socket-share']),
    onProgress: args.json ? undefined : (line) => process.stderr.write(`${line}\n`),
  })
  console.log(args.json ? JSON.stringify(report) : report)
  if (!report.ok) process.exitCode = 1
}
