//! Generates the types and services from the `.proto` files, without a `protoc` binary.

use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=ottla");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let mut files: Vec<_> = std::fs::read_dir(Path::new("ottla/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["."])?;
    // What a client may know of: its own services, and what the details of an error are made of.
    let client = [
        "ottla/v1/admin.proto",
        "ottla/v1/cluster.proto",
        "ottla/v1/log.proto",
        "google/protobuf/any.proto",
        "google/protobuf/duration.proto",
    ];
    let client = protox::compile(client, ["."])?;
    std::fs::write(
        out.join("client.bin"),
        prost::Message::encode_to_vec(&client),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
