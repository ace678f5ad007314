/**
 * Compiles the WASM kernels: engine/backends/wasm/assembly → kernels.wasm, and the same over shared memory (for
 * cross-origin isolated pages), with the relaxed dot (for engines where it is exact), and both. Called by npm after install.
 */
import asc from 'assemblyscript/asc'

const folder = new URL('../engine/backends/wasm/', import.meta.url)
const common = [
  'assembly/index.ts', '-O3', '--converge', '--noAssert', '--runtime', 'stub', '--enable', 'simd',
  '--importMemory', '--noExportMemory', '--initialMemory', '1', '--maximumMemory', '65536',
] // prettier-ignore

const variants = {
  'kernels.wasm': [],
  'kernels-threads.wasm': ['--enable', 'threads', '--sharedMemory'],
  'kernels-relaxed.wasm': ['--enable', 'relaxed-simd'],
  'kernels-relaxed-threads.wasm': ['--enable', 'relaxed-simd', '--enable', 'threads', '--sharedMemory'],
}

for (const [file, flags] of Object.entries(variants)) {
  const { fileURLToPath } = process.getBuiltinModule('node:url')
  const { error, stderr } = await asc.main([
    ...common,
    ...flags,
    '--outFile',
    file,
    '--baseDir',
    fileURLToPath(folder),
  ])
  if (error) {
    console.error(`building engine/backends/wasm/${file} failed: ${error.message}\n${stderr.toString()}`)
    process.exit(1)
  }
}
console.log(`built ${Object.keys(variants).join(' and ')} in engine/backends/wasm`)
