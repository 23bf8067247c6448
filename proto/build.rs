//! Compiles every proto file in one call (two calls would overwrite each other's output) and writes the descriptor
//! set that gRPC reflection serves.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "geminga/v1/stream.proto",
        "geminga/v1/topics.proto",
        "geminga/v1/groups.proto",
        "geminga/v1/cluster.proto",
        "geminga/internal/v1/bookie.proto",
        "geminga/internal/v1/peer.proto",
        "geminga/internal/v1/metadata.proto",
        "geminga/internal/v1/state.proto",
    ];
    for file in files {
        println!("cargo::rerun-if-changed={file}");
    }
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::codec::ExactCodec")
        .file_descriptor_set_path(out.join("geminga.bin"))
        .compile_protos(&files, &["."])?;
    Ok(())
}
