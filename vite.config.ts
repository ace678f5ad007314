import { defineConfig } from 'vite'

/** A page with these is cross-origin isolated: SharedArrayBuffer exists, so WASM can use threads. */
export const isolation = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
}

export default defineConfig({
  root: import.meta.dirname,
  appType: 'custom',
  server: { headers: isolation },
  preview: { headers: isolation },
  worker: { format: 'es' },
  build: { target: 'esnext' },
  optimizeDeps: {
    // A dependency discovered late makes Vite reload the page under a running test: name them here instead.
    noDiscovery: true,
    include: [],
  },
})
