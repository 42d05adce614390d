//! Generates the services from `proto/*.proto`; needs `protoc`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_protos(&["proto/agent.proto", "proto/supervisor.proto"], &["proto"])
}
