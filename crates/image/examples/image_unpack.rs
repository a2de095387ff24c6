//! Prepares an image and prints what a sandbox would be given.
//!
//! `cargo run -p outwork-image --example image_unpack -- CACHE IMAGE [--allow-unpinned]`
#![allow(missing_docs)]

use std::process::ExitCode;

use outwork_image::{Images, Options, Reference};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (cache, image, unpinned) = match arguments.as_slice() {
        [cache, image] => (cache, image, false),
        [cache, image, flag] if flag == "--allow-unpinned" => (cache, image, true),
        _ => {
            eprintln!("usage: image_unpack CACHE IMAGE [--allow-unpinned]");
            return ExitCode::from(2);
        }
    };
    match prepare(cache, image, unpinned).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn prepare(cache: &str, image: &str, unpinned: bool) -> outwork_image::Result<()> {
    let reference = Reference::parse(image)?;
    let mut options = Options::new(cache);
    options.allow_unpinned = unpinned;
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    let image = Images::open(options)?.get(&reference, &cancel).await?;
    println!("digest  {}", image.digest);
    for layer in &image.layers {
        println!("layer   {}", layer.display());
    }
    for (name, value) in &image.config.env {
        println!("env     {name}={value}");
    }
    println!("workdir {}", image.config.workdir.as_deref().unwrap_or("/"));
    println!("user    {}", image.config.user.as_deref().unwrap_or("-"));
    Ok(())
}
