/**
 * Finds a Chrome or Chromium and drives it: for tests, benchmarks and the headless volunteer.
 *
 * Order of search: `CHORALE_BROWSER`, `CHROME_PATH`, the usual places of this system, an earlier download of ours.
 * Only when none is there: puppeteer's own download, then (root on a Debian) `apt-get install chromium`.
 */
import { spawn } from 'node:child_process'
import { accessSync, constants, existsSync, mkdtempSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { homedir, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { Browser, LaunchOptions } from 'puppeteer-core'

/** What was tried and what to do, as text fit for a person. */
export class BrowserError extends Error {
  override name = 'BrowserError'
}

export interface FindOptions {
  /** Told one line per step that takes time. Default: stderr. */
  say?: (line: string) => void
  /** Download or install when none is found. Default true; `CHORALE_BROWSER_INSTALL=0` forbids it. */
  install?: boolean
  /** Default `process.env`; a test passes its own. */
  env?: NodeJS.ProcessEnv
}

const names = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome', 'chrome']

/** The usual places of `platform`, most likely first. Absolute paths; none need exist. */
export function usualPlaces(
  env: NodeJS.ProcessEnv = process.env,
  platform: NodeJS.Platform = process.platform,
): string[] {
  if (platform === 'darwin') {
    const apps = [
      'Google Chrome.app/Contents/MacOS/Google Chrome',
      'Chromium.app/Contents/MacOS/Chromium',
      'Google Chrome Canary.app/Contents/MacOS/Google Chrome Canary',
      'Microsoft Edge.app/Contents/MacOS/Microsoft Edge',
    ]
    return ['/Applications', join(env.HOME ?? '', 'Applications')].flatMap((at) =>
      apps.map((app) => join(at, app)),
    )
  }
  if (platform === 'win32') {
    const programs = [
      'Google\\Chrome\\Application\\chrome.exe',
      'Chromium\\Application\\chrome.exe',
      'Microsoft\\Edge\\Application\\msedge.exe',
    ]
    return [env.PROGRAMFILES, env['PROGRAMFILES(X86)'], env.LOCALAPPDATA]
      .filter((at) => at !== undefined)
      .flatMap((at) => programs.map((program) => `${at}\\${program}`))
  }
  const folders = (env.PATH ?? '').split(delimiter).filter(Boolean)
  return [...folders.flatMap((at) => names.map((name) => join(at, name))), '/opt/google/chrome/chrome']
}

/**
 * Path of a browser that can be started, installing one if there is none.
 * @throws BrowserError naming what was tried and the remedies.
 */
export async function findBrowser(options: FindOptions = {}): Promise<string> {
  const env = options.env ?? process.env
  const say = options.say ?? ((line) => void process.stderr.write(`browser: ${line}\n`))
  for (const variable of ['CHORALE_BROWSER', 'CHROME_PATH']) {
    const path = env[variable]
    if (!path) continue
    if (runnable(path)) return path
    throw new BrowserError(
      `${variable}=${path} is no program that can be started: correct it, or unset it to let one be found`,
    )
  }
  const usual = usualPlaces(env).find(runnable)
  if (usual) return usual

  const cache = cacheFolder(env)
  const earlier = await downloaded(cache)
  if (earlier) return earlier

  const failures: string[] = []
  if (options.install === false || env.CHORALE_BROWSER_INSTALL === '0') {
    failures.push('installing one was not allowed')
  } else {
    say('no Chrome or Chromium found')
    for (const step of [downloadChrome, installWithApt]) {
      try {
        const path = await step(cache, env, say)
        say(`using ${path}`)
        return path
      } catch (error) {
        failures.push(error instanceof Error ? error.message : String(error))
        say(failures.at(-1)!)
      }
    }
  }
  throw new BrowserError(
    `no Chrome or Chromium: ${failures.join('; ')}. ` +
      'Install one (https://www.google.com/chrome, or `apt-get install chromium`), ' +
      'or name the one you have: CHORALE_BROWSER=/path/to/chrome',
  )
}

export interface OpenOptions extends FindOptions {
  /** `--enable-unsafe-webgpu`: SwiftShader where there is no GPU. Without it such a machine has no adapter at all. */
  webgpu: boolean
  /** Further command line switches. */
  args?: string[]
  /** Milliseconds puppeteer waits for one protocol answer; 0 waits for ever. Default 10 minutes. */
  protocolTimeoutMs?: number
}

/** Starts a headless browser on a fresh profile, which is removed when the browser closes. */
export async function launchBrowser(options: OpenOptions): Promise<Browser> {
  const [executablePath, { launch }] = await Promise.all([findBrowser(options), import('puppeteer-core')])
  const userDataDir = mkdtempSync(join(tmpdir(), 'chorale-browser-'))
  const settings: LaunchOptions = {
    executablePath,
    headless: true,
    userDataDir,
    // Large kernels on a software adapter can keep the page busy for minutes.
    protocolTimeout: options.protocolTimeoutMs ?? 600_000,
    args: [
      '--no-sandbox',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      '--disable-dev-shm-usage',
      ...(options.webgpu ? ['--enable-unsafe-webgpu'] : []),
      ...(options.args ?? []),
    ],
  }
  const remove = () => rm(userDataDir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 })
  let browser: Browser
  try {
    browser = await launch(settings)
  } catch (error) {
    await remove()
    throw new BrowserError(
      `${executablePath} did not start: ${error instanceof Error ? error.message : String(error)}. ` +
        'Try it by hand with --headless=new --version, or name another: CHORALE_BROWSER=/path/to/chrome',
      { cause: error },
    )
  }
  // The profile can only go once the process is gone; callers await close(), so close() does both.
  const close = browser.close.bind(browser)
  browser.close = async () => {
    const child = browser.process()
    const gone =
      child && child.exitCode === null && child.signalCode === null
        ? new Promise<void>((resolve) => child.once('exit', () => resolve()))
        : undefined
    await close()
    await gone
    await remove()
  }
  return browser
}

/** Where our own download lives: below the user's cache, so that it outlasts a clone. */
function cacheFolder(env: NodeJS.ProcessEnv): string {
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'chorale', 'browsers')
}

async function downloaded(cache: string): Promise<string | undefined> {
  if (!existsSync(cache)) return undefined
  const { getInstalledBrowsers } = await import('@puppeteer/browsers')
  const found = await getInstalledBrowsers({ cacheDir: cache })
  return found.map((one) => one.executablePath).find(runnable)
}

type Step = (cache: string, env: NodeJS.ProcessEnv, say: (line: string) => void) => Promise<string>

const downloadChrome: Step = async (cache, _env, say) => {
  const { Browser, detectBrowserPlatform, install, resolveBuildId } = await import('@puppeteer/browsers')
  const platform = detectBrowserPlatform()
  if (!platform) throw new Error(`no Chrome build exists for ${process.platform} ${process.arch}`)
  say(`downloading Chrome for Testing into ${cache}`)
  try {
    const buildId = await resolveBuildId(Browser.CHROME, platform, 'stable')
    let tenth = -1
    const one = await install({
      browser: Browser.CHROME,
      buildId,
      platform,
      cacheDir: cache,
      downloadProgressCallback: (done, total) => {
        const now = Math.floor((10 * done) / total)
        if (now === tenth) return
        tenth = now
        say(`Chrome ${buildId}: ${now * 10} % of ${Math.round(total / 1e6)} MB`)
      },
    })
    return one.executablePath
  } catch (error) {
    throw new Error(`the download failed (${error instanceof Error ? error.message : String(error)})`, {
      cause: error,
    })
  }
}

const installWithApt: Step = async (_cache, env, say) => {
  if (process.platform !== 'linux' || !existsSync('/etc/debian_version')) {
    throw new Error('apt-get is for Debian and its kin only')
  }
  if (process.getuid?.() !== 0) throw new Error('apt-get needs root')
  for (const args of [
    ['update', '-qq'],
    ['install', '-y', '-qq', '--no-install-recommends', 'chromium'],
  ]) {
    say(`apt-get ${args.join(' ')}`)
    await run('apt-get', args, env)
  }
  const path = usualPlaces({ PATH: '/usr/bin:/usr/local/bin:/snap/bin' }).find(runnable)
  if (!path) throw new Error('apt-get went well, but there is still no chromium on the usual paths')
  return path
}

function run(program: string, args: string[], env: NodeJS.ProcessEnv): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      env: { ...env, DEBIAN_FRONTEND: 'noninteractive' },
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    let complaint = ''
    child.stderr.on('data', (chunk: Buffer) => (complaint = (complaint + chunk.toString()).slice(-500)))
    child.once('error', (error) => reject(new Error(`${program} could not be started (${error.message})`)))
    child.once('exit', (code) => {
      if (code === 0) resolve()
      else reject(new Error(`${program} ${args[0]} failed (${complaint.trim().split('\n').at(-1) || code})`))
    })
  })
}

function runnable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
