//! The program: everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // kube's client asks rustls for its default provider; a second one in the tree would make that ambiguous. An error
    // means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            anstream::eprintln!("error: the runtime cannot be started: {error}");
            return ExitCode::from(redis_cluster_conformance::exit::BROKEN);
        }
    };
    ExitCode::from(runtime.block_on(redis_cluster_conformance::cli::main()))
}
