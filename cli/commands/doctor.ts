/** `chorale doctor`: what this machine can do, and what to do about the rest. */
import { access, constants, mkdir, stat } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import type { Command } from 'commander'
import { KitFailed, openAdmitted } from '../../engine/kit/open.ts'
import type { Admitted } from '../../engine/kit/open.ts'
import { openBackend, openWebgpuHere } from '../../tools/backends.ts'
import { findBrowser } from '../../tools/browser.ts'
import { cachedPacks, packsFolder } from '../../tools/cache.ts'
import { embedded, modelFolder } from '../../tools/models.ts'
import { readConfig, settingOf } from '../config.ts'
import { EXIT, lineOf } from '../errors.ts'
import { common } from '../options.ts'
import { bytes, Talk } from '../talk.ts'
import type { TalkOptions } from '../talk.ts'

interface Finding {
  what: string
  state: 'ok' | 'warn' | 'fail'
  found: string
  /** Where it is not ok. */
  remedy?: string
}

export function addDoctor(program: Command): void {
  common(
    program
      .command('doctor')
      .summary('what this machine can do')
      .description('Checks what the engine needs and would use here. Exit code 0 if nothing fails, else 4.'),
  )
    .addHelpText(
      'after',
      `
Examples:
  chorale doctor
  chorale doctor --json | jq '.[] | select(.state != "ok")'`,
    )
    .action(async (options: TalkOptions & { config?: string }) => {
      const talk = new Talk(options)
      const findings: Finding[] = []
      for (const check of [
        node,
        machine,
        () => settings(program, options.config),
        wasm,
        webgpu,
        auto,
        browser,
        cache,
        models,
        hub,
      ]) {
        const finding = await check()
        findings.push(finding)
        if (!talk.json)
          await talk.out(
            `${finding.state.padEnd(4)}  ${finding.what.padEnd(8)}  ${finding.found}${finding.remedy ? `: ${finding.remedy}` : ''}\n`,
          )
      }
      if (talk.json) await talk.out(`${JSON.stringify(findings)}\n`)
      if (findings.some((f) => f.state === 'fail')) process.exitCode = EXIT.environment
    })
}

const node = (): Finding => ({
  what: 'node',
  state: 'ok',
  found: `${process.versions.node} (${process.platform} ${process.arch}, V8 ${process.versions.v8})`,
})

const machine = (): Finding => ({
  what: 'machine',
  state: 'ok',
  found: `${availableParallelism()} cores, ${bytes(totalmem())} memory`,
})

/** Every setting that is not its default, and where it comes from. */
function settings(program: Command, named: string | undefined): Finding {
  try {
    const config = readConfig(named)
    const found = new Map<string, string>()
    const look = (command: Command): void => {
      for (const option of command.options) {
        if (option.attributeName() === 'config') continue
        const { value, from } = settingOf(command, option, config)
        if (from === 'default') continue
        const shown = /key|token|secret/.test(option.long ?? '') ? '(set)' : JSON.stringify(value)
        found.set(`${option.long} ${shown} from ${from}`, '')
      }
      command.commands.forEach(look)
    }
    look(program)
    const lines = [...found.keys()]
    return {
      what: 'settings',
      state: 'ok',
      found: lines.join(', ') || 'the defaults: no CHORALE_… in the environment, no chorale.config.json here',
    }
  } catch (error) {
    return { what: 'settings', state: 'fail', found: lineOf(error), remedy: 'mend the file' }
  }
}

/** What a volunteer is asked before its first unit, asked again each time. */
const admitted = (admission: Admitted): string => `all known answers right in ${admission.ms.toFixed(0)} ms`

const wrongVariants = ({ dropped }: Admitted): string => dropped.map(({ name, detail }) => `${name} (${detail})`).join('; ') // prettier-ignore

async function wasm(): Promise<Finding> {
  try {
    const admission = await openAdmitted((avoid) => openBackend({ name: 'wasm', avoid }))
    const { backend, dropped } = admission
    await backend.close()
    const found = `${backend.info.description}, ${admitted(admission)}`
    if (!dropped.length) return { what: 'wasm', state: 'ok', found }
    return {
      what: 'wasm',
      state: 'warn',
      found: `${found}, without fast products, which gave wrong answers: ${wrongVariants(admission)}`,
      remedy: 'update Node: its compiler is at fault',
    }
  } catch (error) {
    if (error instanceof KitFailed)
      return {
        what: 'wasm',
        state: 'fail',
        found: lineOf(error),
        remedy: 'update Node: its compiler is at fault',
      }
    return {
      what: 'wasm',
      state: 'warn',
      found: lineOf(error),
      remedy: 'run npm run build:wasm; until then plain JavaScript computes, some twenty times slower',
    }
  }
}

async function webgpu(): Promise<Finding> {
  try {
    const first = await openWebgpuHere()
    await first.close()
    if (first.info.software) {
      return {
        what: 'webgpu',
        state: 'warn',
        found: `${first.info.description} (software)`,
        remedy: 'fine for tests; it is used only with --backend webgpu',
      }
    }
    const admission = await openAdmitted((avoid) => openWebgpuHere(avoid))
    await admission.backend.close()
    const found = `${first.info.description}, ${admitted(admission)}`
    if (!admission.dropped.length) return { what: 'webgpu', state: 'ok', found }
    return {
      what: 'webgpu',
      state: 'warn',
      found: `${found}, without variants that gave wrong answers: ${wrongVariants(admission)}`,
      remedy: 'update the graphics driver',
    }
  } catch (error) {
    return {
      what: 'webgpu',
      state: 'warn',
      found: lineOf(error),
      remedy: error instanceof KitFailed ? 'update the graphics driver; wasm computes meanwhile' : 'not needed: wasm gives the same bytes', // prettier-ignore
    }
  }
}

async function auto(): Promise<Finding> {
  const backend = await openBackend({ name: 'auto' })
  await backend.close()
  const { name, description } = backend.info
  return { what: 'auto', state: 'ok', found: `--backend auto uses ${name} (${description})` }
}

async function browser(): Promise<Finding> {
  try {
    return { what: 'browser', state: 'ok', found: await findBrowser({ install: false, say: () => {} }) }
  } catch (error) {
    return {
      what: 'browser',
      state: 'warn',
      found: lineOf(error),
      remedy: 'only tests and benchmarks need one',
    }
  }
}

async function cache(): Promise<Finding> {
  const folder = packsFolder()
  try {
    await mkdir(folder, { recursive: true })
    await access(folder, constants.W_OK)
    const packs = await cachedPacks()
    return {
      what: 'cache',
      state: 'ok',
      found: `${folder}, ${packs.length} packs, ${bytes(packs.reduce((sum, p) => sum + p.bytes, 0))}`,
    }
  } catch (error) {
    return {
      what: 'cache',
      state: 'fail',
      found: lineOf(error),
      remedy: 'set CHORALE_CACHE to a folder you may write to',
    }
  }
}

async function models(): Promise<Finding> {
  for (const name of embedded) {
    const { folder } = await modelFolder(name)
    if (!(await stat(folder).then((s) => s.isDirectory(), () => false)))
      return { what: 'models', state: 'fail', found: `${name} is not there`, remedy: 'get a whole copy of the repository' }
  } // prettier-ignore
  return { what: 'models', state: 'ok', found: `embedded: ${embedded.join(', ')}` }
}

async function hub(): Promise<Finding> {
  if (process.env.HF_HUB_OFFLINE && process.env.HF_HUB_OFFLINE !== '0')
    return { what: 'hub', state: 'ok', found: 'HF_HUB_OFFLINE is set: only what is in its cache' }
  const endpoint = process.env.HF_ENDPOINT || 'https://huggingface.co'
  try {
    await fetch(endpoint, { method: 'HEAD', signal: AbortSignal.timeout(5000) })
    return { what: 'hub', state: 'ok', found: endpoint }
  } catch {
    return {
      what: 'hub',
      state: 'warn',
      found: `${endpoint} could not be reached`,
      remedy: 'local folders and embedded models work without it',
    }
  }
}
