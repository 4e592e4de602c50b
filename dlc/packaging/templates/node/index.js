"use strict";

const fs = require("node:fs");
const path = require("node:path");
const ort = require("onnxruntime-node");

const options = JSON.parse(fs.readFileSync(path.join(__dirname, "session.json"), "utf8"));

/** The model in one session, opened with the options it was measured with. */
class Model {
  constructor(session) {
    this.session = session;
  }

  static async load(file = path.join(__dirname, "model.onnx")) {
    checkProcessor(options.isa, options.why);
    return new Model(await ort.InferenceSession.create(file, options.session));
  }

  /** Takes and returns tensors by name. */
  async run(feeds) {
    return this.session.run(feeds);
  }
}

/** Throws if the processor has none of the instruction sets that the variant needs; only Linux tells. */
function checkProcessor(isa, why) {
  if (isa.length === 0 || !fs.existsSync("/proc/cpuinfo")) return;
  const line = fs.readFileSync("/proc/cpuinfo", "utf8").split("\n").find((each) => /^(flags|Features)\s*:/.test(each)) ?? "";
  const flags = new Set(line.split(/\s+/));
  if (!isa.some((flag) => flags.has(flag))) throw new Error(`this processor has none of ${isa.join(", ")}: ${why}`);
}

module.exports = { Model, Tensor: ort.Tensor };
