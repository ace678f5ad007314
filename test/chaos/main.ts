/**
 * npm run chaos -- [--kills N] [--seed S] [--volunteers V] [--requesters R] [--rows N] [--no-shortages] [--json]
 *
 * A coordinator with volunteers and requesters, all real processes, is killed N times; then an auditor reads the database.
 * Exit status 1 when anything acknowledged is lost or changed, anything is paid twice, or the ledger does not add up.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { chaos } from './world.ts'

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '20' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    volunteers: { type: 'string', default: '2' },
    requesters: { type: 'string', default: '4' },
    rows: { type: 'string', default: '300' },
    'no-shortages': { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
})

const folder = mkdtempSync(join(tmpdir(), 'chorale-chaos-'))
const say = (line: string): void => void process.stderr.write(`${line}\n`)
say(`seed ${values.seed}`)
const outcome = await chaos({
  seed: Number(values.seed),
  kills: Number(values.kills),
  volunteers: Number(values.volunteers),
  requesters: Number(values.requesters),
  rows: Number(values.rows),
  withShortages: !values['no-shortages'],
  folder,
  say,
})
const { audit, servingAgainMs, faults } = outcome
if (values.json) process.stdout.write(`${JSON.stringify(outcome, null, 2)}\n`)
else {
  say(`kills: ${JSON.stringify(outcome.kills)}`)
  say(
    `serving again: median ${servingAgainMs.p50} ms, at most ${servingAgainMs.max} ms, of ${servingAgainMs.n} (gate 2000)`,
  )
  say(
    `${outcome.batches} batches, ${audit.rows} rows acknowledged, ${outcome.rowsRead} of them read; refusals ${JSON.stringify(outcome.refusals)}`,
  )
  say(`shortages: ${JSON.stringify(outcome.shortages)}`)
  say(
    `lost ${audit.lost.length}, paid twice ${audit.doubleCredits.length}, differing ${audit.differing.length}`,
  )
  say(
    `ledger: ${audit.entries} entries, ${audit.earned} units earned, ${audit.orphans} of them for work a kill threw away, ${audit.ledgerFaults.length} faults`,
  )
}
const all = [...faults, ...audit.lost, ...audit.doubleCredits, ...audit.ledgerFaults, ...audit.differing]
for (const fault of all.slice(0, 20)) say(`FAULT: ${fault}`)
if (outcome.ok) rmSync(folder, { recursive: true, force: true })
else {
  say(`${all.length} faults; everything is in ${folder}; again with --seed ${values.seed}`)
  process.exitCode = 1
}
// Volunteers were killed; nothing else may keep this open.
process.exit()
