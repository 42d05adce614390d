//! Hosts whose machine monitor is not ours.

/// Says so.
pub fn main() -> std::process::ExitCode {
    eprintln!("gourd-vmm: for Linux hosts only");
    std::process::ExitCode::from(2)
}
