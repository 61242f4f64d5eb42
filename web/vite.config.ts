import { defineConfig } from "vite";

// Relative addresses, so that the folder works below any path of any static host.
export default defineConfig({
  base: "./",
  // ONNX Runtime's loader and its WebAssembly stay files of their own: its threads start from the loader's address.
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "production"] },
  build: {
    outDir: "../src/compactnets/web/page",
    emptyOutDir: true,
    assetsInlineLimit: 0, // a data: address would need a wider content security policy
    modulePreload: false,
    chunkSizeWarningLimit: 1000,
  },
  worker: { format: "es" },
});
