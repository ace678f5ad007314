/**
 * npm run chaos -- [--kills 20] [--seed S] [--volunteers 2] [--requesters 4] [--rows 300] [--no-shortages] [--json]
 * npm run chaos -- --tabs [2] [--rows 10000] [--kills 2] [--house] [--seed S] [--json]
 *
 * A coordinator with volunteers and requesters, all real processes, is killed; then an auditor reads the database. With --tabs
 * the volunteers are browser tabs that come and go, and one batch is compared with the same one undisturbed. Exit status 1 when
 * anything acknowledged is lost or changed, anything is paid twice, or the ledger does not add up.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Audit } from './auditor.ts'
import { tabs } from './tabs.ts'
import { chaos } from './world.ts'

/** `--tabs` alone is two. */
const args = process.argv.slice(2).flatMap((arg, i, all) => {
  return arg === '--tabs' && !/^\d+$/.test(all[i + 1] ?? '') ? [arg, '2'] : [arg]
})
const { values } = parseArgs({
  args,
  options: {
    kills: { type: 'string' },
    seed: { type: 'string', default: String(Date.now() % 2 ** 31) },
    volunteers: { type: 'string', default: '2' },
    requesters: { type: 'string', default: '4' },
    rows: { type: 'string' },
    tabs: { type: 'string' },
    house: { type: 'boolean', default: false },
    'no-shortages': { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
  },
})

const folder = mkdtempSync(join(tmpdir(), 'chorale-chaos-'))
const seed = Number(values.seed)
const say = (line: string): void => void process.stderr.write(`${line}\n`)
say(`seed ${seed}`)
const ok = values.tabs === undefined ? await withProcesses() : await withTabs(Number(values.tabs))
if (ok) rmSync(folder, { recursive: true, force: true })
else {
  say(`everything is in ${folder}; again with --seed ${seed}`)
  process.exitCode = 1
}
// Volunteers were killed; nothing else may keep this open.
process.exit()

async function withProcesses(): Promise<boolean> {
  const outcome = await chaos({
    seed,
    kills: Number(values.kills ?? 20),
    volunteers: Number(values.volunteers),
    requesters: Number(values.requesters),
    rows: Number(values.rows ?? 300),
    withShortages: !values['no-shortages'],
    folder,
    say,
  })
  const { audit, servingAgainMs: again } = outcome
  if (!told(outcome)) {
    say(`kills: ${JSON.stringify(outcome.kills)}`)
    say(`serving again: median ${again.p50} ms, at most ${again.max} ms, of ${again.n} (gate 2000)`)
    say(
      `${outcome.batches} batches, ${audit.rows} rows acknowledged, ${outcome.rowsRead} of them read; refusals ${JSON.stringify(outcome.refusals)}`,
    )
    say(`shortages: ${JSON.stringify(outcome.shortages)}`)
  }
  return judged(outcome)
}

async function withTabs(count: number): Promise<boolean> {
  const outcome = await tabs({
    seed,
    rows: Number(values.rows ?? 10_000),
    kills: Number(values.kills ?? 2),
    tabs: count,
    withHouse: values.house,
    folder,
    say,
  })
  if (!told(outcome)) {
    const { undisturbed, disturbed } = outcome
    say(`tabs: ${JSON.stringify(outcome.tabs)}; rows by ${JSON.stringify(disturbed.rowsBy)}`)
    say(`${undisturbed.seconds.toFixed(1)} s undisturbed, ${disturbed.seconds.toFixed(1)} s disturbed`)
  }
  return judged(outcome)
}

function told(outcome: object): boolean {
  if (values.json) process.stdout.write(`${JSON.stringify(outcome, null, 2)}\n`)
  return values.json
}

/** Says what the auditor found, and every fault. */
function judged({ audit, faults, ok }: { audit: Audit; faults: readonly string[]; ok: boolean }): boolean {
  const { lost, doubleCredits, differing, ledgerFaults } = audit
  if (!values.json) {
    say(`lost ${lost.length}, paid twice ${doubleCredits.length}, differing ${differing.length}`)
    say(
      `ledger: ${audit.entries} entries, ${audit.earned} standard units earned, ${ledgerFaults.length} faults`,
    )
  }
  const all = [...faults, ...lost, ...doubleCredits, ...ledgerFaults, ...differing]
  for (const fault of all.slice(0, 20)) say(`FAULT: ${fault}`)
  return ok
}
