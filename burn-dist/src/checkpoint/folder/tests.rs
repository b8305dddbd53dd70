use super::*;
use crate::checkpoint::disk::{sync_folder, write_file};
use crate::checkpoint::manifest::FORMAT;
use proptest::prelude::*;
use tempfile::TempDir;

const FILES: [&str; 3] = ["model.bpk", "state.cbor", "ranks.cbor"];

fn manifest(step: u64) -> Manifest {
    Manifest {
        format: FORMAT,
        burn_dist: "0.1.0".into(),
        step,
        epoch: None,
        world_size: 1,
        crossovers: None,
        files: Vec::new(),
    }
}

/// Returns the contents of a checkpoint of this step.
fn contents(step: u64) -> Vec<(String, Bytes)> {
    let file = |n: usize| vec![step as u8 ^ n as u8; 40 * n];
    let files = FILES.iter().enumerate();
    let files = files.map(|(n, name)| ((*name).to_owned(), Bytes::from_bytes_vec(file(n))));
    files.collect()
}

fn write(folder: &mut Folder, step: u64) -> Result<PathBuf> {
    folder.write(manifest(step), &contents(step))
}

/// A folder with checkpoints of these steps.
fn with_steps(steps: &[u64], keep: usize) -> (TempDir, Folder) {
    let temporary = tempfile::tempdir().unwrap();
    let mut folder = Folder::open(temporary.path(), keep).unwrap();
    for &step in steps {
        write(&mut folder, step).unwrap();
    }
    (temporary, folder)
}

fn reopened(temporary: &TempDir, folder: Folder) -> Folder {
    let keep = folder.keep;
    drop(folder);
    Folder::open(temporary.path(), keep).unwrap()
}

fn sorted_names(path: &Path) -> Vec<String> {
    let mut names = names(path).unwrap();
    names.sort();
    names
}

#[track_caller]
fn assert_newest(folder: &mut Folder, step: u64) -> Vec<Rejected> {
    let newest = folder.newest().unwrap().unwrap();
    assert_eq!(newest.manifest.step, step);
    let due = contents(step);
    let due: Vec<&[u8]> = due.iter().map(|(_, bytes)| &bytes[..]).collect();
    assert_eq!(newest.files, due);
    newest.rejected
}

#[test]
fn what_was_written_is_read_and_the_last_ones_are_kept() {
    let (temporary, mut folder) = with_steps(&[], 2);
    assert!(folder.newest().unwrap().is_none());
    for step in [3, 7, 20, 1_000_000_000_000, 1_000_000_000_001] {
        let path = write(&mut folder, step).unwrap();
        assert!(path.join("manifest.json").is_file());
        assert_eq!(assert_newest(&mut folder, step), []);
    }
    let names = ["lock", "step-1000000000000", "step-1000000000001"];
    assert_eq!(sorted_names(temporary.path()), names);
    let error = write(&mut folder, 1_000_000_000_001)
        .unwrap_err()
        .to_string();
    assert!(error.contains("of this step already"), "{error}");
}

/// `sha256sum` is there on most systems that the tests run on.
#[test]
fn a_person_can_check_the_manifest() {
    let (_temporary, mut folder) = with_steps(&[], 2);
    let path = write(&mut folder, 1).unwrap();
    let mut check = std::process::Command::new("sha256sum");
    match check.current_dir(path).args(["-c", MANIFEST_SUM]).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => eprintln!("skipped, for this needs sha256sum: {error}"),
    }
}

#[test]
fn one_job_at_a_time_and_nothing_unfinished_stays() {
    let (temporary, folder) = with_steps(&[1], 2);
    let error = Folder::open(temporary.path(), 2).unwrap_err().to_string();
    assert!(error.contains("another job uses this folder"), "{error}");
    // What a job leaves that is killed while it writes.
    let unfinished = temporary.path().join(".unfinished-step-000000000002");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join("model.bpk"), "half").unwrap();
    let mut folder = reopened(&temporary, folder);
    assert_eq!(
        sorted_names(temporary.path()),
        ["lock", "step-000000000001"]
    );
    assert_newest(&mut folder, 1);
}

type Damage = fn(&Path);

/// Ways to damage a checkpoint, and what is said of it.
const DAMAGES: [(Damage, &str); 8] = [
    (
        |at| fs::remove_file(at.join("manifest.json")).unwrap(),
        "manifest.json can't be read",
    ),
    (
        |at| fs::remove_file(at.join(MANIFEST_SUM)).unwrap(),
        "sha256 can't be read",
    ),
    (
        |at| fs::remove_file(at.join("model.bpk")).unwrap(),
        "model.bpk can't be read",
    ),
    (
        |at| fs::write(at.join("state.cbor"), "short").unwrap(),
        "state.cbor has 5 bytes where 40",
    ),
    (
        |at| fs::write(at.join("state.cbor"), [7; 40]).unwrap(),
        "state.cbor has another checksum",
    ),
    (
        |at| fs::write(at.join(MANIFEST), vec![b' '; 2 << 20]).unwrap(),
        "are the most it may have",
    ),
    (
        |at| {
            fs::remove_file(at.join("model.bpk")).unwrap();
            fs::create_dir(at.join("model.bpk")).unwrap();
        },
        "model.bpk is no plain file",
    ),
    (
        |at| {
            let older = at.with_file_name("step-000000000001");
            for name in [MANIFEST, MANIFEST_SUM] {
                fs::copy(older.join(name), at.join(name)).unwrap();
            }
        },
        "its manifest is that of step 1",
    ),
];

#[test]
fn a_damaged_one_is_reported_and_the_one_before_it_used() {
    for (damage, said) in DAMAGES {
        let (temporary, folder) = with_steps(&[1, 2], 2);
        let damaged = temporary.path().join(name(2));
        damage(&damaged);
        let mut folder = reopened(&temporary, folder);
        let rejected = assert_newest(&mut folder, 1);
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].path, damaged);
        assert!(rejected[0].reason.contains(said), "{}", rejected[0].reason);
        // It is no longer among those that are kept, and still there for who wants to look.
        write(&mut folder, 2).unwrap();
        let names = [
            "damaged-step-000000000002",
            "lock",
            "step-000000000001",
            "step-000000000002",
        ];
        assert_eq!(sorted_names(temporary.path()), names);
        assert_eq!(assert_newest(&mut folder, 2), []);
    }
}

#[test]
fn damaged_ones_do_not_count_among_those_kept() {
    let (temporary, folder) = with_steps(&[10, 20, 30], 3);
    fs::remove_file(temporary.path().join(name(30)).join("model.bpk")).unwrap();
    let mut folder = reopened(&temporary, folder);
    assert_newest(&mut folder, 20);
    folder.keep = 2;
    write(&mut folder, 25).unwrap();
    assert_eq!(folder.steps().unwrap(), [25, 20]);
    write(&mut folder, 35).unwrap();
    assert_eq!(folder.steps().unwrap(), [35, 25]);
}

#[test]
fn without_a_whole_one_nothing_begins_anew_by_itself() {
    let (temporary, folder) = with_steps(&[1, 2], 2);
    for step in [1, 2] {
        fs::remove_file(temporary.path().join(name(step)).join(MANIFEST)).unwrap();
    }
    let error = reopened(&temporary, folder)
        .newest()
        .unwrap_err()
        .to_string();
    assert!(error.contains("all 2 checkpoints are damaged"), "{error}");
}

#[test]
fn another_format_is_not_passed_over() {
    let (temporary, mut folder) = with_steps(&[1], 2);
    let mut other = manifest(2);
    other.format = FORMAT + 1;
    folder.write(other, &contents(2)).unwrap();
    let error = reopened(&temporary, folder)
        .newest()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("resume with the version that wrote it"),
        "{error}"
    );
}

#[test]
fn a_length_that_lies_costs_nothing() {
    let (temporary, folder) = with_steps(&[1, 2], 2);
    let path = temporary.path().join(name(2));
    let mut lying = manifest(2);
    lying.files.push(FileEntry {
        bytes: 1 << 60,
        ..FileEntry::of("model.bpk", b"")
    });
    for (name, bytes) in lying.files().unwrap() {
        fs::write(path.join(name), bytes).unwrap();
    }
    let rejected = assert_newest(&mut reopened(&temporary, folder), 1);
    assert!(
        rejected[0]
            .reason
            .contains("where 1152921504606846976 were written")
    );
}

/// A disk that is full when half of the second file is on it.
fn full(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if path.ends_with("state.cbor") {
        fs::write(path, &bytes[..bytes.len() / 2])?;
        return Err(io::ErrorKind::StorageFull.into());
    }
    write_file(path, bytes)
}

#[test]
fn a_full_disk_costs_one_checkpoint() {
    let (temporary, mut folder) = with_steps(&[1], 1);
    folder.disk.write = full;
    let error = write(&mut folder, 2).unwrap_err().to_string();
    let path = temporary.path().join(name(2));
    let due = format!(
        "checkpoint {}: it can't be written: no storage space",
        path.display()
    );
    assert!(error.starts_with(&due), "{error}");
    assert_eq!(
        sorted_names(temporary.path()),
        ["lock", "step-000000000001"]
    );
    assert_newest(&mut folder, 1);
    folder.disk.write = write_file;
    write(&mut folder, 3).unwrap();
    assert_eq!(folder.steps().unwrap(), [3]);
    assert_newest(&mut folder, 3);
}

/// A disk that fails once the checkpoint of step 2 has its name.
fn fails(folder: &Path) -> io::Result<()> {
    if folder.join(name(2)).exists() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    sync_folder(folder)
}

#[test]
fn a_name_that_can_not_be_synced_is_taken_back() {
    let (temporary, folder) = with_steps(&[1, 2], 1);
    // Damaged, so that it gives way to the new one.
    fs::remove_file(temporary.path().join(name(2)).join("model.bpk")).unwrap();
    let mut folder = reopened(&temporary, folder);
    folder.newest().unwrap_err();
    folder.disk.sync = fails;
    let error = write(&mut folder, 2).unwrap_err().to_string();
    let due = "it can't be written: its name can't be synced: no storage space; those before it are as \
               they were";
    assert!(error.ends_with(due), "{error}");
    let names = ["damaged-step-000000000002", "lock"];
    assert_eq!(sorted_names(temporary.path()), names);
    // It is not in the way of another try.
    folder.disk.sync = sync_folder;
    write(&mut folder, 2).unwrap();
    assert_eq!(assert_newest(&mut folder, 2), []);
}

/// A disk that fails so, and does not let the name be taken back.
fn fails_for_good(folder: &Path) -> io::Result<()> {
    if folder.join(name(2)).exists() {
        let in_the_way = folder.join(format!("{UNFINISHED}{}", name(2)));
        fs::create_dir(&in_the_way)?;
        fs::write(in_the_way.join("file"), "")?;
    }
    fails(folder)
}

#[test]
fn a_name_that_can_not_be_taken_back_is_said() {
    let (temporary, mut folder) = with_steps(&[1], 1);
    folder.disk.sync = fails_for_good;
    let error = write(&mut folder, 2).unwrap_err().to_string();
    for due in [
        "its name can't be synced: no storage space, and its name can't be taken back: ",
        "; it is there, whole, but a power failure may undo that; remove it before this step",
    ] {
        assert!(error.contains(due), "{error}");
    }
    let names = ["lock", "step-000000000001", "step-000000000002"];
    assert_eq!(sorted_names(temporary.path()), names);
    assert_newest(&mut folder, 2);
    let error = write(&mut folder, 2).unwrap_err().to_string();
    assert!(error.contains("of this step already"), "{error}");
}

#[test]
fn the_folders_above_a_new_one_are_synced() {
    use parking_lot::Mutex;
    static SYNCED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let temporary = tempfile::tempdir().unwrap();
    let outer = temporary.path().join("outer");
    let inner = outer.join("inner");
    let disk = FileSystem {
        sync: |folder| {
            SYNCED.lock().push(folder.to_owned());
            Ok(())
        },
        ..FileSystem::SYSTEM
    };
    for _ in 0..2 {
        // What was there before is left alone.
        disk.make_folder(&inner).unwrap();
    }
    let synced = SYNCED.lock();
    assert_eq!(*synced, [outer.as_path(), temporary.path()]);
    let error = without_sync()
        .make_folder(&outer.join("other"))
        .unwrap_err();
    let due = format!("{}, above it, can't be synced", outer.display());
    assert!(error.to_string().starts_with(&due), "{error}");
}

fn without_sync() -> FileSystem {
    FileSystem {
        sync: |_| Err(io::ErrorKind::Unsupported.into()),
        ..FileSystem::SYSTEM
    }
}

#[test]
fn a_mount_that_can_not_hold_checkpoints_is_found_when_the_folder_is_opened() {
    let without_rename = FileSystem {
        rename: |_, _| Err(io::ErrorKind::Unsupported.into()),
        ..FileSystem::SYSTEM
    };
    let full = FileSystem {
        write: |_, _| Err(io::ErrorKind::StorageFull.into()),
        ..FileSystem::SYSTEM
    };
    for (disk, due) in [
        (without_rename, "a directory can't be renamed: unsupported"),
        (without_sync(), "a directory can't be synced: unsupported"),
        (full, "no file can be written and synced: no storage space"),
    ] {
        let temporary = tempfile::tempdir().unwrap();
        let error = Folder::open_on(disk, temporary.path(), 2).unwrap_err();
        let error = error.to_string();
        let due = format!("no checkpoint can be written here, for {due}");
        assert!(error.contains(&due), "{error}");
        assert_eq!(sorted_names(temporary.path()), ["lock"]);
    }
}

#[test]
fn a_folder_that_is_removed_meanwhile_is_made_again_with_its_lock() {
    let (temporary, mut folder) = with_steps(&[1], 2);
    fs::remove_dir_all(temporary.path()).unwrap();
    write(&mut folder, 2).unwrap();
    let names = ["lock", "step-000000000002"];
    assert_eq!(sorted_names(temporary.path()), names);
    let error = Folder::open(temporary.path(), 2).unwrap_err().to_string();
    assert!(error.contains("another job uses this folder"), "{error}");
    // Another job has made it first.
    fs::remove_dir_all(temporary.path()).unwrap();
    let other = Folder::open(temporary.path(), 2).unwrap();
    let error = write(&mut folder, 3).unwrap_err().to_string();
    assert!(error.contains("another job uses this folder"), "{error}");
    drop(other);
    write(&mut folder, 3).unwrap();
    // Something that is no folder is in its place.
    fs::remove_dir_all(temporary.path()).unwrap();
    fs::write(temporary.path(), "").unwrap();
    let error = write(&mut folder, 4).unwrap_err().to_string();
    assert!(
        error.contains("the folder was removed, and can't be made again"),
        "{error}"
    );
    fs::remove_file(temporary.path()).unwrap();
    write(&mut folder, 4).unwrap();
}

#[cfg(unix)]
#[test]
fn the_lock_leaves_files_as_they_are_and_follows_no_link() {
    let temporary = tempfile::tempdir().unwrap();
    let lock = temporary.path().join("lock");
    fs::write(&lock, "a note").unwrap();
    drop(Folder::open(temporary.path(), 2).unwrap());
    assert_eq!(fs::read(&lock).unwrap(), b"a note");
    let elsewhere = temporary.path().join("elsewhere");
    for there in [false, true] {
        if there {
            fs::write(&elsewhere, "a diary").unwrap();
        }
        fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &lock).unwrap();
        let error = Folder::open(temporary.path(), 2).unwrap_err().to_string();
        assert!(error.contains("the lock is a symbolic link"), "{error}");
        assert_eq!(elsewhere.exists(), there);
    }
    assert_eq!(fs::read(&elsewhere).unwrap(), b"a diary");
    fs::remove_file(&lock).unwrap();
    let mut mkfifo = std::process::Command::new("mkfifo");
    assert!(mkfifo.arg(&lock).status().unwrap().success());
    let error = Folder::open(temporary.path(), 2).unwrap_err().to_string();
    assert!(error.contains("it is no plain file"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// 8 cases of 64 damages each, of any byte there is.
    #[test]
    fn no_damage_of_any_byte_goes_unseen(
        damages in prop::collection::vec((any::<prop::sample::Index>(), 1_u8.., any::<bool>()), 64),
    ) {
        let (temporary, folder) = with_steps(&[1, 2], 2);
        let path = temporary.path().join(name(2));
        let files: Vec<(PathBuf, Vec<u8>)> = names(&path).unwrap().iter().map(|name| {
            let file = path.join(name);
            let bytes = fs::read(&file).unwrap();
            (file, bytes)
        }).collect();
        let total: usize = files.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut folder = reopened(&temporary, folder);
        for (byte, change, cut) in damages {
            let mut at = byte.index(total);
            let mut all = files.iter();
            let (file, bytes) = all.find(|(_, bytes)| {
                let here = at < bytes.len();
                if !here { at -= bytes.len(); }
                here
            }).unwrap();
            let mut changed = bytes.clone();
            if cut { changed.truncate(at); } else { changed[at] ^= change; }
            fs::write(file, &changed).unwrap();
            let rejected = assert_newest(&mut folder, 1);
            prop_assert_eq!(rejected.len(), 1);
            fs::write(file, bytes).unwrap();
        }
        prop_assert_eq!(assert_newest(&mut folder, 2), []);
    }
}
