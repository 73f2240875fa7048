// Builds source/ into built/, which is committed: users need no node. `make web` runs it.

import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { defineConfig, type Plugin } from "vite";

const here = import.meta.dirname;
const client = join(here, "../../../clients/typescript/client.ts");
const explorer = join(here, "node_modules/swagger-ui-dist");

const LATER = /wavesurfer|explorer|source\/early|source\/(strip|asset_strip|work\/(audit|basket|follow|jobs|releases)|library\/map|search\/(cutter|matrix|record|sound))\b/;

/** The page's policy forbids markup out of text and inline styles: wavesurfer makes its few elements by name instead. */
function withoutMarkup(): Plugin {
  return {
    name: "foley-without-markup",
    enforce: "pre",
    transform(code, id) {
      if (!id.includes("wavesurfer.js/dist/renderer.js")) return null;
      const changed = code
        .replace(/shadow\.innerHTML = `\s*<style[^\n]*>\n([\s\S]*?)<\/style>[\s\S]*?`;/, (_, css: string) => `
          const sheet = new CSSStyleSheet();
          sheet.replaceSync(\`${css}\`);
          shadow.adoptedStyleSheets = [sheet];
          const part = (name, ...children) => {
            const element = document.createElement("div");
            element.className = name;
            element.setAttribute("part", name);
            element.append(...children);
            return element;
          };
          shadow.append(part("scroll", part("wrapper", part("canvases"), part("progress"), part("cursor"))));`)
        .replaceAll(/(\S+)\.innerHTML = '';/g, "$1.replaceChildren();");
      if (changed.includes("innerHTML")) throw new Error("wavesurfer's renderer has changed: look at it again");
      return { code: changed, map: null };
    },
  };
}

/** Swagger UI as it comes from its package, and what the check of built files needs: no node. */
function finish(): Plugin {
  return {
    name: "foley-finish",
    apply: "build",
    transformIndexHtml: { order: "post", handler: (page, { bundle }) => {
      const early = bundle?.["early.js"];
      if (!page.includes("early-script") || early?.type !== "chunk") return page;
      delete bundle!["early.js"]; // no request, and before the style, for which a script waits
      return page.replace("<!-- early-script -->", () => `<script>${early.code.trim()}</script>`);
    } },
    generateBundle() {
      for (const name of ["swagger-ui-bundle.js", "swagger-ui.css"]) {
        const source = readFileSync(join(explorer, name), "utf8").replace(/\n\/[/*]# sourceMappingURL=\S+( \*\/)?\s*$/, "\n");
        this.emitFile({ type: "asset", fileName: name, source });
      }
    },
    closeBundle() {
      const sources = [...walk(join(here, "source")), client];
      for (const name of ["package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"]) sources.push(join(here, name));
      const built = walk(join(here, "built")).filter((path) => !path.endsWith("hashes.json"));
      const record = { sources: hash(sources), built: hash(built) };
      writeFileSync(join(here, "built/hashes.json"), `${JSON.stringify(record)}\n`);
    },
  };
}

function walk(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}

/** sha256 over name and content of every file, in the order of the names. */
function hash(paths: string[]): string {
  const digest = createHash("sha256");
  for (const path of paths.sort()) {
    digest.update(`${relative(here, path)}\0${createHash("sha256").update(readFileSync(path)).digest("hex")}\n`);
  }
  return digest.digest("hex");
}

export default defineConfig({
  root: join(here, "source"),
  base: "/web/",
  resolve: { alias: { "foley-client": client, "openapi-fetch": join(here, "node_modules/openapi-fetch") } },
  plugins: [withoutMarkup(), finish()],
  build: {
    outDir: join(here, "built"),
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    rollupOptions: {
      input: { early: join(here, "source/early.ts"), app: join(here, "source/index.html"), explorer: join(here, "source/explorer.html") },
      output: {
        entryFileNames: "[name].js",
        chunkFileNames: "[name].js",
        assetFileNames: "[name][extname]",
        // What the first page needs is one file; rooms and parts that are opened later are files of their own.
        codeSplitting: { groups: [{ name: "page", test: (id: string) => !LATER.test(id) }] },
      },
    },
  },
});
