// Loads the model, replays its golden vectors, and shows what it answers. Everything comes from this folder.
import { feeds, finite, replay } from "./golden.mjs";

const heaps = [];
const Memory = WebAssembly.Memory;
WebAssembly.Memory = class extends Memory { // the runtime's heap only grows, so its size at the end is its peak
  constructor(descriptor) {
    super(descriptor);
    heaps.push(this);
  }
};
const ort = await import("./runtime/ort.wasm.min.mjs");

const SECONDS = 0.2; // for as long runs are timed: browsers round their clock to a tenth of a millisecond
const RUNS = 5;
const show = (id, text) => { document.getElementById(id).textContent = text; };
const query = new URLSearchParams(location.search);
let received = 0;

async function bytes(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  const buffer = await response.arrayBuffer();
  received += buffer.byteLength;
  return buffer;
}

async function unzipped(path) {
  const stream = new Blob([await bytes(path)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

const text = async (path) => JSON.parse(new TextDecoder().decode(await bytes(path)));
const make = (type, data, dims) => new ort.Tensor(type, data, dims);

async function open() {
  const [facts, model, wasm] = await Promise.all([text("facts.json"), bytes("model.onnx"), unzipped("runtime/ort-wasm-simd-threaded.wasm.gz")]);
  const several = Math.min(navigator.hardwareConcurrency || 1, 4);
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Number(query.get("threads") ?? several) : 1;
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  return { facts, session: await ort.InferenceSession.create(new Uint8Array(model), facts.session) };
}

async function time(session, input) {
  const start = performance.now();
  let runs = 0;
  do {
    for (let i = 0; i < RUNS; i++) await session.run(input);
    runs += RUNS;
  } while (performance.now() - start < SECONDS * 1e3);
  return (performance.now() - start) / runs;
}

function summary(outputs) {
  return Object.entries(outputs).map(([name, { data, dims }]) => {
    const head = Array.from(data.slice(0, 8), (value) => Number(value).toPrecision(4)).join(", ");
    return `${name} [${dims.join("×")}]: ${head}${data.length > 8 ? ", …" : ""}`;
  }).join("; ");
}

async function main() {
  const started = performance.now();
  const [{ facts, session }, index, buffer] = await Promise.all([open(), text("golden.json"), bytes("golden.bin")]);
  const loaded = performance.now() - started;
  const input = feeds(index.vectors[0].inputs, buffer, make);
  show("result", summary(await session.run(input)));
  const interactive = performance.now(); // since the page was asked for
  document.getElementById("again").disabled = false;

  const errors = await replay(index, buffer, (each) => session.run(each), make);
  const worst = Math.max(...Object.values(errors));
  const agrees = worst <= index.bound;
  show("golden", `${index.vectors.length} replayed, largest relative error ${worst.toPrecision(2)} (bound ${index.bound.toPrecision(2)}): ${agrees ? "pass" : "FAIL"}`);
  const update = async () => {
    const ms = await time(session, input);
    show("latency", `${ms.toFixed(3)} ms`);
    return ms;
  };
  document.getElementById("again").addEventListener("click", async () => show("result", summary(await session.run(input))) ?? update());
  show("threads", `${ort.env.wasm.numThreads}${globalThis.crossOriginIsolated ? "" : " (several need cross-origin isolation)"}`);
  show("size", `${(facts.bytes / 1e6).toFixed(2)} MB`);
  const latency = await update();
  show("status", `${agrees ? "Ready" : "Ready, but the answers differ from the golden ones"}: interactive after ${Math.round(interactive)} ms.`);
  return {
    runtime: `onnxruntime-web ${ort.env.versions.common}, ${ort.env.wasm.numThreads} thread${ort.env.wasm.numThreads > 1 ? "s" : ""}`,
    variant: facts.variant, bound: index.bound, vectors: index.vectors.length, errors: finite(errors), load_ms: loaded,
    latency_ms: latency, peak_bytes: Math.max(0, ...heaps.map((heap) => heap.buffer.byteLength)),
    notes: [`interactive after ${Math.round(interactive)} ms`, `${received} bytes received`],
  };
}

async function report(answer) {
  if (query.has("report")) await fetch("report", { method: "POST", body: JSON.stringify(answer) });
}

try {
  const answer = await main();
  if ("serviceWorker" in navigator) { // keeps the folder for when there is no network
    await navigator.serviceWorker.register("worker.js");
    await navigator.serviceWorker.ready;
  }
  await report(answer);
} catch (error) {
  show("status", `It does not run: ${error.message}`);
  await report({ failed: error.message });
}
