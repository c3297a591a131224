//! Compiles the wire's messages, without protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["holdfast/v1.proto", "holdfast/sync.v1.proto"], ["proto"])?;
    // Chunks are not copied out of the frames that they came in.
    prost_build::Config::new().bytes([".holdfast.sync.v1.Chunk.data"]).compile_fds(files)?;
    Ok(())
}
