/**
 * WebGPU without a browser: Dawn, through the npm package `webgpu` (Node only; never part of a page's bundle).
 *
 * On Linux Dawn needs a Vulkan loader (`libvulkan.so.1`) and a driver. A machine with neither still has both when a
 * Chrome or Chromium is installed: they lie beside it, with SwiftShader as the driver. The loader is then opened
 * into this process first, and Dawn's own dlopen finds it by its soname: no LD_LIBRARY_PATH, no restart.
 */
import { existsSync, readdirSync, realpathSync } from 'node:fs'
import { constants, homedir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { isMainThread } from 'node:worker_threads'

/** Says what is missing for WebGPU in Node and how to get it. */
export class DawnError extends Error {
  override name = 'DawnError'
}

export interface Dawn {
  gpu: GPU
  adapter: GPUAdapter
  /** For people and for reports: e.g. "google swiftshader (SwiftShader Device (Subzero))". */
  name: string
  /** A driver that runs on the CPU. */
  software: boolean
}

export interface DawnOptions {
  /** Take SwiftShader even where there is a GPU. Ignored when VK_DRIVER_FILES says which driver to take. */
  software?: boolean
  /** Folders to search for SwiftShader before the usual ones. */
  folders?: string[]
}

// One per driver, for the life of the process: Dawn lives as long as somebody holds what create() gave, and starting
// it again for every adapter (an adapter gives one device) would cost its start each time.
const started = new Map<string, GPU>()

/**
 * Opens a GPU. A driver chosen from outside (VK_DRIVER_FILES, VK_ICD_FILENAMES) wins; else the system's; else
 * SwiftShader. Call it on the main thread or in a child process: a worker thread can't set the loader's environment.
 * @throws DawnError
 */
export async function dawn(options: DawnOptions = {}): Promise<Dawn> {
  const { create, globals } = await loadPackage()
  Object.assign(globalThis, globals)

  const linux = process.platform === 'linux'
  const chosen = Boolean(process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES)
  const beside = linux ? swiftshaderFolder(options.folders) : undefined
  if (linux) openLoader(beside)

  if (!linux || chosen || (!options.software && systemDriver())) {
    const found = await open(create, options.software ?? false)
    if (found) return found
    if (chosen) {
      throw new DawnError(
        `the Vulkan driver that VK_DRIVER_FILES or VK_ICD_FILENAMES names gives no adapter (${
          process.env.VK_DRIVER_FILES || process.env.VK_ICD_FILENAMES
        }): correct it, or unset it to take what the system has`,
      )
    }
  }
  if (beside) {
    if (!isMainThread) {
      throw new DawnError('SwiftShader can only be chosen on the main thread: set VK_DRIVER_FILES first')
    }
    process.env.VK_DRIVER_FILES = join(beside, 'vk_swiftshader_icd.json')
    try {
      const found = await open(create, true)
      if (found) return found
    } finally {
      // Leave the choice to the next caller: only one set from outside may bind it.
      delete process.env.VK_DRIVER_FILES
    }
  }
  throw new DawnError(
    'no WebGPU adapter in Node: no GPU driver gives one, and there is no SwiftShader beside an installed Chrome or ' +
      'Chromium. Install a GPU driver with Vulkan, or Chromium, or name one: CHORALE_BROWSER=/path/to/chrome',
  )
}

async function loadPackage(): Promise<typeof import('webgpu')> {
  try {
    return await import('webgpu')
  } catch (error) {
    throw new DawnError(
      `the npm package \`webgpu\` can't be loaded (${error instanceof Error ? error.message : String(error)}): npm install webgpu`,
      { cause: error },
    )
  }
}

async function open(create: typeof import('webgpu').create, software: boolean): Promise<Dawn | undefined> {
  const driver = process.env.VK_DRIVER_FILES ?? ''
  const gpu = started.get(driver) ?? create([])
  started.set(driver, gpu)
  const adapter = await gpu.requestAdapter({
    powerPreference: 'high-performance',
    forceFallbackAdapter: software && process.platform !== 'linux',
  })
  if (!adapter) return undefined
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info
  return {
    gpu,
    adapter,
    name: `${vendor} ${architecture || device} (${description})`.trim(),
    software: isFallbackAdapter ?? false,
  }
}

/**
 * Makes `libvulkan.so.1` present in this process: the system's, else the browser's. It is no Node addon, so
 * process.dlopen() throws after opening it; RTLD_NODELETE keeps it mapped when Node closes its handle.
 */
function openLoader(beside: string | undefined): void {
  const noDelete = 0x1000 // glibc and musl alike; node:os does not name it
  const flags = constants.dlopen.RTLD_NOW | constants.dlopen.RTLD_GLOBAL | noDelete
  for (const path of ['libvulkan.so.1', ...(beside ? [join(beside, 'libvulkan.so.1')] : [])]) {
    try {
      process.dlopen({ exports: {} }, path, flags)
      return
    } catch (error) {
      if (error instanceof Error && error.message.includes('did not self-register')) return
    }
  }
}

/** A Vulkan driver is registered with the system's loader. */
function systemDriver(): boolean {
  const data = process.env.XDG_DATA_HOME || join(homedir(), '.local/share')
  return ['/etc', '/usr/share', '/usr/local/share', '/usr/local/etc', data].some((at) => {
    try {
      return readdirSync(join(at, 'vulkan', 'icd.d')).some((file) => file.endsWith('.json'))
    } catch {
      return false
    }
  })
}

/** The folder of an installed Chrome or Chromium that has SwiftShader's driver and a Vulkan loader. */
function swiftshaderFolder(first: string[] = []): string | undefined {
  const browsers = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome', 'chrome']
  const named = [process.env.CHORALE_BROWSER, process.env.CHROME_PATH].filter((path) => path !== undefined)
  const onPath = (process.env.PATH ?? '')
    .split(delimiter)
    .filter(Boolean)
    .flatMap((at) => browsers.map((browser) => join(at, browser)))
  const folders = [
    ...first,
    ...[...named, ...onPath].filter((path) => existsSync(path)).map((path) => dirname(realpathSync(path))),
    '/usr/lib/chromium',
    '/usr/lib64/chromium',
    '/usr/lib/chromium-browser',
    '/opt/google/chrome',
    '/snap/chromium/current/usr/lib/chromium-browser',
  ]
  return folders.find((at) => existsSync(join(at, 'vk_swiftshader_icd.json')))
}
