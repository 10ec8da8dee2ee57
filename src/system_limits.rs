//! What the operating system grants this process, as far as it limits how many requests may wait.

use std::fs;
use std::path::{Path, PathBuf};

use rlimit::Resource;

/// Descriptors for everything but clients and upstreams: the database, files, logs, readiness sets.
const OTHER_DESCRIPTORS: usize = 256;
/// Memory mappings for everything but the stacks of threads.
const OTHER_MAPPINGS: usize = 4096;
/// Mappings of a thread's stack: the stack and its guard.
const MAPPINGS_PER_THREAD: usize = 2;
/// Descriptors of a call of a model: the client's and the upstream's.
const DESCRIPTORS_PER_CALL: usize = 2;

/// A limit, and what sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many requests it lets wait at once.
    pub waiting: usize,
    /// Where it is set, for the operator.
    pub source: &'static str,
}

/// What limits the calls of models, each with two descriptors. Raises their soft limit to the hard one.
pub fn of_calls() -> Limit {
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).ok().and_then(|most| usize::try_from(most).ok());
    let waiting = descriptors.map(|most| most.saturating_sub(OTHER_DESCRIPTORS) / DESCRIPTORS_PER_CALL);
    Limit { waiting: waiting.unwrap_or(usize::MAX), source: "RLIMIT_NOFILE (ulimit -n)" }
}

/// What limits all requests that wait, each with a thread: the tightest of several limits.
pub fn of_threads() -> Limit {
    let mappings = number(Path::new("/proc/sys/vm/max_map_count"));
    let by_mappings = mappings.map(|most| most.saturating_sub(OTHER_MAPPINGS) / MAPPINGS_PER_THREAD);
    let limits = [
        ("RLIMIT_NPROC (ulimit -u)", processes_of_user()),
        ("kernel.threads-max", number(Path::new("/proc/sys/kernel/threads-max"))),
        ("vm.max_map_count", by_mappings),
        ("pids.max of the control group", pids_of_group(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))),
    ];
    let known = limits.into_iter().filter_map(|(source, waiting)| Some(Limit { waiting: waiting?, source }));
    known.min_by_key(|limit| limit.waiting).unwrap_or(Limit { waiting: usize::MAX, source: "nothing" })
}

/// Bytes of memory that this process can have: those of the machine, or fewer if its control group or one above it has
/// less. 1 GiB if nothing is known.
pub fn memory() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
    });
    let group = memory_of_group(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(group).min().unwrap_or(1 << 30)
}

/// Bytes that this process may still write to the file system of a folder, or of the nearest one above it that is there.
pub fn free_space(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let found = absolute.ancestors().find(|path| path.exists())?;
    let system = rustix::fs::statvfs(found).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// The least memory that this process's control group or one above it may have.
fn memory_of_group(listing: &Path, root: &Path) -> Option<usize> {
    let limits = groups(listing, root, "memory").into_iter().flat_map(|(mount, path)| {
        let limit = |above: &Path| {
            let group = mount.join(above);
            number(&group.join("memory.max")).or_else(|| number(&group.join("memory.limit_in_bytes")))
        };
        Path::new(&path).ancestors().filter_map(limit).collect::<Vec<_>>()
    });
    limits.min()
}

fn number(file: &Path) -> Option<usize> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// How many threads the user of this process may have; the superuser may have any number.
fn processes_of_user() -> Option<usize> {
    let (soft, hard) = Resource::NPROC.get().ok()?;
    if rustix::process::geteuid().is_root() || hard == rlimit::INFINITY {
        return None;
    }
    let raised = soft < hard && Resource::NPROC.set(hard, hard).is_ok();
    usize::try_from(if raised { hard } else { soft }).ok()
}

/// How many threads this process's control group, and those above it, may still start. `listing` says which group that
/// is; the groups are mounted at `root`.
fn pids_of_group(listing: &Path, root: &Path) -> Option<usize> {
    groups(listing, root, "pids").into_iter().flat_map(|(mount, path)| left_in_groups(&mount, &path)).min()
}

/// Where the groups of this controller are mounted, and the path of this process's group there; one for each version.
fn groups(listing: &Path, root: &Path, controller: &str) -> Vec<(PathBuf, String)> {
    let listing = fs::read_to_string(listing).unwrap_or_default();
    let groups = listing.lines().filter_map(|line| {
        // `hierarchy:controllers:path`, without controllers in version 2.
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some((root.to_owned(), path.to_owned())),
            _ if controllers.split(',').any(|name| name == controller) => {
                Some((root.join(controller), path.to_owned()))
            }
            _ => None,
        }
    });
    groups.collect()
}

/// The threads left in a group and in each above it, where they are limited.
fn left_in_groups(mount: &Path, path: &str) -> Vec<usize> {
    let left = |group: PathBuf| {
        // `max` is no limit, and no number.
        let most = number(&group.join("pids.max"))?;
        Some(most.saturating_sub(number(&group.join("pids.current")).unwrap_or(0)))
    };
    // In a container, the path may be that of the host, which is not mounted there; then its own group is at the root.
    Path::new(path).ancestors().filter_map(|above| left(mount.join(above))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(folder: &Path, most: &str, current: &str) {
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("pids.max"), most).unwrap();
        fs::write(folder.join("pids.current"), current).unwrap();
    }

    #[test]
    fn the_control_group_and_those_above_limit_threads() {
        let root = std::env::temp_dir().join(format!("groups-{}", std::process::id()));
        let listing = root.join("cgroup");
        fs::create_dir_all(&root).unwrap();
        let left = |text: &str| {
            fs::write(&listing, text).unwrap();
            pids_of_group(&listing, &root)
        };
        assert_eq!(left("0::/\n"), None, "no limit");
        group(&root.join("a/b"), "max\n", "7\n");
        assert_eq!(left("0::/a/b\n"), None);
        group(&root.join("a"), "1000\n", "100\n");
        assert_eq!(left("0::/a/b\n"), Some(900), "that of the group above");
        group(&root.join("a/b"), "300\n", "7\n");
        assert_eq!(left("0::/a/b\n"), Some(293));
        group(&root.join("pids/x"), "50\n", "60\n");
        assert_eq!(left("9:name=systemd:/x\n8:pids:/x\n0::/a/b\n"), Some(0), "the other version's, all used");
        group(&root, "64\n", "4\n");
        assert_eq!(left("0::/on/the/host\n"), Some(60), "in a container");
        assert_eq!(left("nonsense"), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_control_group_and_those_above_limit_memory() {
        let root = std::env::temp_dir().join(format!("memory-groups-{}", std::process::id()));
        let listing = root.join("cgroup");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir_all(root.join("memory/x")).unwrap();
        fs::write(&listing, "0::/a/b\n").unwrap();
        let of_group = || memory_of_group(&listing, &root);
        fs::write(root.join("a/b/memory.max"), "max\n").unwrap();
        assert_eq!(of_group(), None);
        fs::write(root.join("a/memory.max"), "1000\n").unwrap();
        assert_eq!(of_group(), Some(1000));
        fs::write(root.join("memory/x/memory.limit_in_bytes"), "500\n").unwrap();
        fs::write(&listing, "9:memory:/x\n0::/a/b\n").unwrap();
        assert_eq!(of_group(), Some(500));
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn this_machine_has_some() {
        assert!(memory() > 1 << 26, "{}", memory());
        for limit in [of_calls(), of_threads()] {
            assert!(limit.waiting > 10, "{limit:?}");
        }
    }
}
