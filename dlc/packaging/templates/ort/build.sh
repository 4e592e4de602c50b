#!/bin/sh
# Builds ONNX Runtime with nothing but the operators of this model; run it in a checkout of the version in dlc-package.json:
#   git clone --recursive --branch vX.Y.Z https://github.com/microsoft/onnxruntime && cd onnxruntime && sh …/build.sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
./build.sh --config MinSizeRel --build_shared_lib --parallel --skip_tests --minimal_build --disable_exceptions --disable_ml_ops \
  --include_ops_by_config "$here/required_operators_and_types.config" --enable_reduced_operator_type_support "$@"
