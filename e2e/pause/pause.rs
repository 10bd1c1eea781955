//! What a pod's sandbox runs: nothing. It only holds the pod's network namespace; containerd ends it with SIGKILL.
//! Built by rustc alone (see image.rs), so that it is one small static file.

fn main() {
    loop {
        std::thread::park();
    }
}
