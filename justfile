# `just --list` shows these; each line is an ordinary command.

# everything that a change must pass: format, lints, documentation, the quickstart, tests
check:
    .ci/run

# the tests that the README names
test:
    cargo test --workspace

# lints, warnings refused
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# format all crates
fmt:
    cargo fmt --all

# refuse what is not formatted
fmt-check:
    cargo fmt --all -- --check

# the documentation of all crates, warnings refused
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# the main job from end to end
quickstart *ARGS:
    cargo run --release -- quickstart {{ARGS}}

# run an example, such as `just example 01-tokenize`
example NAME *ARGS:
    cargo run --release -p cloze --example {{NAME}} -- {{ARGS}}

# time the kernels: gemm, attention or ops
bench-kernels NAME="gemm":
    cargo bench -p cloze-cpu --bench {{NAME}}

# time the training step, such as `just bench-step --model base --precision f32`
bench-step *ARGS:
    cargo run --release -- bench train-step {{ARGS}}

# compile for 64-bit ARM (after `rustup target add aarch64-unknown-linux-gnu`)
check-arm:
    cargo check -p cloze-cpu --target aarch64-unknown-linux-gnu
