//! `poquelin devices`.

use poquelin_model::devices::{Hardware, hardware};
use serde::Serialize;

use crate::cli::DevicesArgs;
use crate::device::{Backend, DeviceChoice};
use crate::error::Error;
use crate::progress::to_stderr;

/// A device, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Line {
    /// What to give to `--device`.
    device: String,
    backend: &'static str,
    kind: &'static str,
    name: String,
    /// Of a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
    /// Of a GPU, as all below.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_units: Option<usize>,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    group_memory: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subgroup: Option<usize>,
}

impl Line {
    fn of_gpu(choice: DeviceChoice, hardware: Hardware) -> Self {
        let Hardware { name, is_card, group_units, group_memory, subgroup } = hardware;
        Self {
            device: choice.to_string(),
            backend: choice.backend.name(),
            kind: if is_card { "GPU" } else { "software" },
            name,
            threads: None,
            group_units: Some(group_units),
            group_memory: Some(group_memory),
            subgroup: Some(subgroup),
        }
    }

    fn of_cpu(choice: DeviceChoice) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            device: choice.to_string(),
            backend: choice.backend.name(),
            kind: "CPU",
            name: format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
            threads: Some(threads),
            group_units: None,
            group_memory: None,
            subgroup: None,
        }
    }

    fn limits(&self) -> String {
        let threads = self.threads.map(|count| format!("threads {count}"));
        let memory = self.group_memory.map(|bytes| format!("{} KiB", bytes / 1024));
        let of_gpu = self.group_units.zip(memory).zip(self.subgroup);
        let group = of_gpu.map(|((units, memory), subgroup)| {
            format!("a group: units {units}, memory {memory}, subgroups of {subgroup}")
        });
        threads.or(group).unwrap_or_default()
    }
}

/// Lists every device of every backend compiled in, the one preferred first.
///
/// # Errors
///
/// Where this build has no backend, or nothing can be printed.
pub fn run(args: &DevicesArgs) -> Result<(), Error> {
    DeviceChoice::preferred()?;
    let (mut lines, mut missing) = (Vec::new(), Vec::new());
    for backend in Backend::compiled_in() {
        match DeviceChoice::all(backend) {
            Ok(devices) => lines.extend(devices.iter().map(|(choice, device)| {
                let hardware = hardware(device);
                hardware.map_or_else(|| Line::of_cpu(*choice), |gpu| Line::of_gpu(*choice, gpu))
            })),
            Err(error) => missing.push(error),
        }
    }
    if args.json {
        lines.iter().try_for_each(super::print_json)?;
    } else {
        let width = |of: fn(&Line) -> &str| lines.iter().map(|line| of(line).len()).max();
        let device = width(|line| &line.device).unwrap_or(0);
        let (kind, name) = (8, width(|line| &line.name).unwrap_or(0));
        for line in &lines {
            let limits = line.limits();
            super::print(&format!(
                "{:<device$}  {:<kind$}  {:<name$}  {limits}",
                line.device, line.kind, line.name
            ))?;
        }
    }
    // What a build has and a machine has not is worth knowing, and no failure.
    missing.iter().for_each(|error| to_stderr(&error.to_string()));
    Ok(())
}
