// Runs a model in onnxruntime-web, in Node.js: `node wasm.mjs FOLDER ORT GOLDEN` reads model.onnx and the feeds that feeds.json
// and feeds.bin hold, and writes what comes back as answers.json and answers.bin. ORT, GOLDEN: addresses of two modules.
import fs from "node:fs";
import path from "node:path";

const [, , folder, runtime, golden] = process.argv;
const ort = await import(runtime);
const { feeds } = await import(golden);
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = new URL("./", runtime).href;

const file = (name) => fs.readFileSync(path.join(folder, name));
const data = file("feeds.bin");
const entries = JSON.parse(file("feeds.json"));
const options = { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" };
const session = await ort.InferenceSession.create(new Uint8Array(file("model.onnx")), options);
const make = (type, values, dims) => new ort.Tensor(type, values, dims);
const outputs = await session.run(feeds(entries, data.buffer.slice(data.byteOffset, data.byteOffset + data.length), make));

const parts = [];
let offset = 0;
const answers = Object.entries(outputs).map(([name, { type, dims, data: values }]) => {
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  parts.push(bytes);
  offset += bytes.length;
  return { name, dtype: type, shape: dims, offset: offset - bytes.length, bytes: bytes.length };
});
fs.writeFileSync(path.join(folder, "answers.bin"), Buffer.concat(parts));
fs.writeFileSync(path.join(folder, "answers.json"), JSON.stringify(answers));
