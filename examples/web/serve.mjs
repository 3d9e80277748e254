// Serves a folder to this machine: node serve.mjs FOLDER [PORT]. Any static server will do.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = { ".html": "text/html", ".css": "text/css", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const [folder, port = 8000] = process.argv.slice(2);

const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://localhost").pathname));
  try {
    const bytes = await readFile(join(folder, path.endsWith("/") ? `${path}index.html` : path));
    response.writeHead(200, { "Content-Type": TYPES[extname(path) || ".html"] ?? "application/octet-stream" }).end(bytes);
  } catch {
    response.writeHead(404).end("not found");
  }
});
server.listen(Number(port), "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}/`));
