//! The process of a pod sandbox: does nothing, and only keeps the pod's network namespace alive. containerd stops it
//! with SIGKILL. Compiled directly with rustc (see image.rs), so that it is one small static file.

fn main() {
    loop {
        std::thread::park();
    }
}
