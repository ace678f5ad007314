/**
 * Compiles engine/backends/wasm/assembly: the kernels → kernels.wasm, and the same over shared memory (for cross-origin isolated
 * pages), with the relaxed dot (for engines where it is exact), and both; and what hashes traces. Called by npm after install.
 */
import asc from 'assemblyscript/asc'

const folder = new URL('../engine/backends/wasm/', import.meta.url)
const common = ['-O3', '--converge', '--noAssert', '--runtime', 'stub']
const kernels = [
  'assembly/index.ts', '--enable', 'simd',
  '--importMemory', '--noExportMemory', '--initialMemory', '1', '--maximumMemory', '65536',
] // prettier-ignore

const modules = {
  'kernels.wasm': kernels,
  'kernels-threads.wasm': [...kernels, '--enable', 'threads', '--sharedMemory'],
  'kernels-relaxed.wasm': [...kernels, '--enable', 'relaxed-simd'],
  'kernels-relaxed-threads.wasm': [...kernels, '--enable', 'relaxed-simd', '--enable', 'threads', '--sharedMemory'],
  'trace.wasm': ['assembly/trace.ts', '--enable', 'simd'],
} // prettier-ignore

for (const [file, flags] of Object.entries(modules)) {
  const { fileURLToPath } = process.getBuiltinModule('node:url')
  const { error, stderr } = await asc.main([
    ...flags,
    ...common,
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
console.log(`built ${Object.keys(modules).join(' and ')} in engine/backends/wasm`)
