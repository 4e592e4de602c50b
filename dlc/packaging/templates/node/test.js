"use strict";
// Replays the golden vectors: `node test.js [VARIANT]` prints one JSON object; exit code 1 if an answer differs, 3 if this
// machine cannot run the variant.

const fs = require("node:fs");
const path = require("node:path");
const ort = require("onnxruntime-node");
const { Model, Tensor, UnfitError } = require("./index.js");

const RUNS = 20;

/** Largest memory of this process; on Linux maxRSS begins at what the parent had. */
function peak() {
  const found = fs.existsSync("/proc/self/status") && /^VmHWM:\s*(\d+) kB/m.exec(fs.readFileSync("/proc/self/status", "utf8"));
  return (found ? Number(found[1]) : process.resourceUsage().maxRSS) * 1024;
}

async function main() {
  const { feeds, finite, replay } = await import("./golden.mjs");
  const make = (type, data, dims) => new Tensor(type, data, dims);

  const start = performance.now();
  const model = await Model.load(process.argv[2]);
  const loaded = performance.now() - start;
  const file = (name) => fs.readFileSync(path.join(__dirname, model.link.folder, name));
  const [index, bytes] = [JSON.parse(file("golden.json")), file("golden.bin")];
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
  const errors = await replay(index, buffer, (each) => model.run(each), make);
  const first = feeds(index.vectors[0].inputs, buffer, make);
  const times = [];
  for (let i = 0; i < RUNS; i++) {
    const from = performance.now();
    await model.run(first);
    times.push(performance.now() - from);
  }
  times.sort((a, b) => a - b);
  console.log(JSON.stringify({
    runtime: `onnxruntime-node ${ort.env.versions.node ?? ort.env.versions.common} on Node.js ${process.versions.node}`,
    variant: model.link.variant, bound: index.bound, vectors: index.vectors.length, errors: finite(errors),
    load_ms: loaded, latency_ms: times[RUNS / 2], peak_bytes: peak(),
  }));
  process.exitCode = Object.values(errors).every((error) => error <= index.bound) ? 0 : 1;
}

main().catch((error) => {
  console.error(String(error.message ?? error).split("\n")[0]);
  process.exitCode = error instanceof UnfitError ? 3 : 2;
});
