"use strict";

const fs = require("node:fs");
const path = require("node:path");
const ort = require("onnxruntime-node");
const { UnfitError, check } = require("./machine.js");

const file = (...names) => path.join(__dirname, ...names);
const read = (...names) => JSON.parse(fs.readFileSync(file(...names), "utf8"));

/** The model in one session, opened with the options it was measured with; `link` is its entry of chain.json. */
class Model {
  constructor(session, link) {
    this.session = session;
    this.link = link;
  }

  /** Opens the first variant of chain.json that this machine can run, or the one that is named. */
  static async load(variant) {
    const lacking = [];
    for (const link of read("chain.json").filter((each) => (variant ?? each.variant) === each.variant)) {
      const options = read(link.folder, "session.json");
      try {
        check(link, options);
        return new Model(await ort.InferenceSession.create(file(link.folder, "model.onnx"), options), link);
      } catch (error) {
        const elsewhere = options.executionProviders[0] !== "cpu"; // a provider that is listed may still find no device
        if (!(error instanceof UnfitError || elsewhere)) throw error;
        lacking.push(error.message);
      }
    }
    throw new UnfitError(`no variant of this package fits this machine: ${lacking.join("; ") || "none has that name"}`);
  }

  /** Takes and returns tensors by name. */
  async run(feeds) {
    return this.session.run(feeds);
  }
}

const { Tensor } = ort;
module.exports = { Model, Tensor, UnfitError }; // names alone: import {…} sees no others
