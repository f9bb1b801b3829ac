//! Which rank a process is, from what launchers put into its environment.

use crate::{Error, Result};

/// Who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Launcher {
    /// torchrun, or whatever sets its variables: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
    Torchrun,
    /// Slurm's srun: SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID, SLURM_STEP_NODELIST.
    Slurm,
    /// Open MPI's mpirun: OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE, OMPI_COMM_WORLD_LOCAL_RANK.
    OpenMpi,
}

/// The place of a process among those of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Which rank it is, from 0.
    pub rank: usize,
    /// Ranks of the run.
    pub size: usize,
    /// Which of the ranks on its host: the GPU that it takes.
    pub local_rank: usize,
    /// Host of rank 0.
    pub host: String,
    /// First port that rank 0 tries there.
    pub port: u16,
    /// What the launcher calls this start: the same on all ranks.
    pub job: String,
}

/// The port where nobody names one.
const PORT: u16 = 29_400;

impl Place {
    /// The only process of a run.
    pub fn alone() -> Self {
        Self { rank: 0, size: 1, local_rank: 0, host: "127.0.0.1".to_owned(), port: PORT, job: String::new() }
    }

    /// From the environment of this process: [`Self::alone`] where no launcher left word there.
    ///
    /// # Errors
    /// [`Error::World`] for a variable that is missing beside others, or is no number, named.
    pub fn of_process() -> Result<Self> {
        Self::of(&|name| std::env::var(name).ok())
    }

    /// From given variables.
    ///
    /// # Errors
    /// As [`Self::of_process`].
    pub fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let has = |name: &str| variable(name).is_some();
        // A shell within a Slurm job has SLURM_PROCID too; only tasks of a step have SLURM_STEP_NUM_TASKS. torchrun first: it may itself
        // run under one of the others.
        let launcher = if has("RANK") && has("WORLD_SIZE") {
            Launcher::Torchrun
        } else if has("OMPI_COMM_WORLD_RANK") {
            Launcher::OpenMpi
        } else if has("SLURM_PROCID") && has("SLURM_STEP_NUM_TASKS") {
            Launcher::Slurm
        } else {
            return Ok(Self::alone());
        };
        let read = Variables(variable);
        let place = match launcher {
            Launcher::Torchrun => {
                // torchrun's agent holds MASTER_PORT itself.
                let is_held = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
                let port = read.number_or("MASTER_PORT", PORT)?;
                let size = read.number("WORLD_SIZE")?;
                Self {
                    rank: read.number("RANK")?,
                    size,
                    local_rank: if size == 1 { read.number_or("LOCAL_RANK", 0)? } else { read.number("LOCAL_RANK")? },
                    host: variable("MASTER_ADDR").unwrap_or_else(|| "127.0.0.1".to_owned()),
                    port: if is_held { port.saturating_add(1) } else { port },
                    job: variable("TORCHELASTIC_RUN_ID").unwrap_or_default(),
                }
            }
            Launcher::OpenMpi => {
                let size: usize = read.number("OMPI_COMM_WORLD_SIZE")?;
                let of_host: usize = read.number("OMPI_COMM_WORLD_LOCAL_SIZE")?;
                let host = match variable("MASTER_ADDR") {
                    Some(host) => host,
                    None if size == of_host => "127.0.0.1".to_owned(),
                    None => return Err(missing("MASTER_ADDR", "the host of rank 0 (mpirun -x MASTER_ADDR=HOST)")),
                };
                Self {
                    rank: read.number("OMPI_COMM_WORLD_RANK")?,
                    size,
                    local_rank: read.number("OMPI_COMM_WORLD_LOCAL_RANK")?,
                    host,
                    port: read.number_or("MASTER_PORT", PORT)?,
                    job: variable("OMPI_MCA_ess_base_jobid").unwrap_or_default(),
                }
            }
            Launcher::Slurm => {
                let nodes =
                    variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST")).unwrap_or_default();
                let host = variable("MASTER_ADDR").or_else(|| first_host(&nodes));
                let job = variable("SLURM_JOB_ID").unwrap_or_default();
                // Jobs of one host meet at ports of their own.
                let of_job = PORT + job.bytes().fold(0u16, |sum, byte| (sum * 10 + u16::from(byte % 10)) % 1000) * 16;
                Self {
                    rank: read.number("SLURM_PROCID")?,
                    size: read.number("SLURM_STEP_NUM_TASKS")?,
                    local_rank: read.number("SLURM_LOCALID")?,
                    host: host.ok_or_else(|| missing("MASTER_ADDR", "the host of rank 0"))?,
                    port: read.number_or("MASTER_PORT", of_job)?,
                    job: format!("{job}.{}", variable("SLURM_STEP_ID").unwrap_or_default()),
                }
            }
        };
        if place.rank >= place.size {
            let reason = format!("the rank must be below the number of ranks, {}, got {}", place.size, place.rank);
            return Err(Error::World { reason });
        }
        Ok(place)
    }

    /// Whether it is rank 0.
    pub fn is_root(&self) -> bool {
        self.rank == 0
    }
}

fn missing(name: &str, what: &str) -> Error {
    Error::World { reason: format!("{name} is not set: {what}") }
}

/// A process' environment.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Variables<'_> {
    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let text = (self.0)(name).ok_or_else(|| missing(name, "the launcher's other variables are"))?;
        let reason = || format!("{name} must be a whole number that is not too large, got {text:?}");
        text.trim().parse().map_err(|_| Error::World { reason: reason() })
    }

    fn number_or<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T> {
        if (self.0)(name).is_some() { self.number(name) } else { Ok(default) }
    }
}

/// The first host of a list as Slurm writes it: `n1`, `n1,n2`, `n[001-004,007],m1`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (name, rest) = list.split_at(end);
    let Some(numbers) = rest.strip_prefix('[') else { return (!name.is_empty()).then(|| name.to_owned()) };
    let first = numbers.split([',', '-', ']']).next()?;
    // What stands behind the brackets belongs to every name.
    let suffix = numbers.split_once(']')?.1;
    let suffix = suffix.split([',', '[']).next()?;
    Some(format!("{name}{first}{suffix}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Place> {
        Place::of(&|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn every_launcher_is_understood() {
        assert_eq!(of(&[]).unwrap(), Place::alone());
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "n1"),
            ("MASTER_PORT", "29500"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RUN_ID", "r7"),
        ];
        let place = of(&torchrun).unwrap();
        assert_eq!((place.rank, place.size, place.local_rank), (5, 8, 1));
        assert_eq!((place.host.as_str(), place.port, place.job.as_str()), ("n1", 29_501, "r7"));
        let slurm = [
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "gpu[017-018]"),
            ("SLURM_JOB_ID", "4711"),
        ];
        let place = of(&slurm).unwrap();
        assert_eq!((place.rank, place.size, place.local_rank, place.host.as_str()), (3, 4, 1, "gpu017"));
        assert_ne!(place.port, of(&[&slurm[..4], &[("SLURM_JOB_ID", "4712")]].concat()).unwrap().port);
        // In a job's shell, outside of a step, there is one process.
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap(), Place::alone());
        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        assert_eq!(of(&mpi).unwrap().host, "127.0.0.1");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (variables, expected) in [
            (&[("RANK", "0"), ("WORLD_SIZE", "2")][..], "LOCAL_RANK is not set"),
            (&[("RANK", "x"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")], "RANK must be a whole number"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")], "below the number of ranks, 2, got 2"),
            (
                &[("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "99999")],
                "MASTER_PORT must be",
            ),
            (
                &[
                    ("OMPI_COMM_WORLD_RANK", "0"),
                    ("OMPI_COMM_WORLD_SIZE", "4"),
                    ("OMPI_COMM_WORLD_LOCAL_RANK", "0"),
                    ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
                ],
                "MASTER_ADDR is not set",
            ),
        ] {
            let message = of(variables).unwrap_err().to_string();
            assert!(message.contains(expected), "{variables:?}: {message}");
        }
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (list, first) in [
            ("n1", Some("n1")),
            ("n1,n2", Some("n1")),
            ("n[001-004,007]", Some("n001")),
            ("n[3,5-6]-ib,m1", Some("n3-ib")),
            ("", None),
        ] {
            assert_eq!(first_host(list).as_deref(), first, "{list}");
        }
    }
}
