/** The volunteer's pages: `vite build -c vite.client.config.ts` → dist/client, served by the coordinator at `/`. */
import { join } from 'node:path'
import { defineConfig } from 'vite'
import { isolation } from './vite.config.ts'

const root = join(import.meta.dirname, 'client')

export default defineConfig({
  root,
  appType: 'mpa',
  server: { headers: isolation, fs: { allow: [import.meta.dirname] } },
  preview: { headers: isolation },
  worker: { format: 'es' },
  // Named here, or Vite finds them late and reloads the page under a running volunteer.
  optimizeDeps: { include: ['lit', 'comlink', 'valibot', 'idb-keyval'] },
  build: {
    target: 'esnext',
    outDir: join(import.meta.dirname, 'dist/client'),
    emptyOutDir: true,
    // Files, not data: URLs: a strict Content-Security-Policy lets workers fetch from their own origin only.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: ['index.html', 'chat.html', 'dashboard.html'].map((page) => join(root, page)) },
  },
})
