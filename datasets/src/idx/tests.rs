use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

fn header(magic: [u8; 4], dimensions: &[u32]) -> Vec<u8> {
    let fields = dimensions
        .iter()
        .flat_map(|dimension| dimension.to_be_bytes());
    magic.into_iter().chain(fields).collect()
}

fn image_file(pixels: &[u8]) -> Vec<u8> {
    let mut bytes = header([0, 0, 8, 3], &[(pixels.len() / PIXELS) as u32, 28, 28]);
    bytes.extend(pixels);
    bytes
}

fn label_file(labels: &[u8]) -> Vec<u8> {
    let mut bytes = header([0, 0, 8, 1], &[labels.len() as u32]);
    bytes.extend(labels);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn fault<T: std::fmt::Debug>(result: Result<T>) -> Fault {
    match result.unwrap_err() {
        DecodeError::Fault(fault) => fault,
        DecodeError::Io(error) => panic!("an error of the source: {error}"),
    }
}

/// Hands out one byte a call, as a slow source may.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

#[test]
fn the_magic_number_decides_what_a_file_is() {
    let labels_as_images = fault(images(&*label_file(&[1, 2])));
    assert_eq!(
        labels_as_images.to_string(),
        "not an IDX file of images: it starts with 00 00 08 01, where 00 00 08 03 or gzip's 1f 8b \
         belongs"
    );
    let expected = [0, 0, 8, 1];
    let found = b"<htm".to_vec();
    let page = fault(labels(&b"<html>not found</html>"[..]));
    assert_eq!(
        page,
        Fault::WrongMagic {
            expected_kind: "labels",
            found,
            expected
        }
    );
    // 32-bit integers in place of bytes.
    let found = vec![0, 0, 0x0c, 1];
    let integers = fault(labels(&*header([0, 0, 0x0c, 1], &[1])));
    assert_eq!(
        integers,
        Fault::WrongMagic {
            expected_kind: "labels",
            found,
            expected
        }
    );
}

#[test]
fn images_of_another_size_are_refused() {
    let bytes = [header([0, 0, 8, 3], &[1, 32, 30]), vec![0; 960]].concat();
    assert_eq!(
        fault(images(&*bytes)),
        Fault::WrongDimensions {
            rows: 32,
            columns: 30
        }
    );
    // Even where the product fits.
    let bytes = [header([0, 0, 8, 3], &[1, 14, 56]), vec![0; 784]].concat();
    assert_eq!(
        fault(images(&*bytes)),
        Fault::WrongDimensions {
            rows: 14,
            columns: 56
        }
    );
}

#[test]
fn labels_are_classes() {
    assert_eq!(labels(&*label_file(&[9, 0])).unwrap(), [9, 0]);
    let wrong = fault(labels(&*label_file(&[0, 9, 10])));
    assert_eq!(
        wrong,
        Fault::WrongLabel {
            index: 2,
            label: 10
        }
    );
}

#[test]
fn a_file_of_nothing_is_refused() {
    assert_eq!(
        fault(labels(&[][..])),
        Fault::ShortHeader {
            found: 0,
            expected: 8
        }
    );
    assert_eq!(
        fault(labels(&*gzip(&[]))),
        Fault::ShortHeader {
            found: 0,
            expected: 8
        }
    );
    assert_eq!(fault(labels(&*label_file(&[]))), Fault::Empty);
    assert_eq!(fault(images(&*image_file(&[]))), Fault::Empty);
}

/// The source never ends, so this test ends only if no more is read than the header says.
#[test]
fn no_more_is_read_than_the_header_says() {
    let endless = header([0, 0, 8, 1], &[3]);
    let endless = endless.chain(io::repeat(1));
    assert_eq!(fault(labels(endless)), Fault::TrailingBytes { declared: 3 });

    let claim = header([0, 0, 8, 3], &[u32::MAX, 28, 28]);
    let declared = u64::from(u32::MAX) * 784;
    let huge = fault(images(claim.chain(io::repeat(1))));
    assert_eq!(
        huge,
        Fault::TooLarge {
            declared,
            limit: LIMIT
        }
    );
}

#[test]
fn several_gzip_streams_are_one_file_and_other_bytes_after_them_are_not() {
    let file = label_file(&[1, 2, 3]);
    let (first, second) = file.split_at(9);
    let mut bytes = [gzip(first), gzip(second)].concat();
    assert_eq!(labels(&*bytes).unwrap(), [1, 2, 3]);
    bytes.extend(b"junk");
    assert!(matches!(fault(labels(&*bytes)), Fault::BrokenGzip(_)));
}

#[test]
fn a_wrong_gzip_checksum_is_found() {
    let mut bytes = gzip(&label_file(&[1, 2, 3]));
    let checksum = bytes.len() - 8;
    bytes[checksum] ^= 1;
    assert!(matches!(fault(labels(&*bytes)), Fault::BrokenGzip(_)));
}

#[test]
fn an_error_of_the_source_stays_one() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let start = label_file(&[1, 2, 3]);
    for bytes in [gzip(&start)[..12].to_vec(), start[..9].to_vec(), Vec::new()] {
        let error = labels(bytes.chain(Broken)).unwrap_err();
        assert!(matches!(error, DecodeError::Io(error) if error.to_string().contains("fire")));
    }
}

/// Checks that both decoders give a fault or data of the promised form.
fn check_promises(bytes: &[u8]) {
    match images(bytes) {
        Ok(pixels) => assert!(!pixels.is_empty() && pixels.len() % PIXELS == 0),
        Err(DecodeError::Fault(_)) => {}
        Err(DecodeError::Io(error)) => panic!("{error} from a source that can't fail"),
    }
    match labels(bytes) {
        Ok(labels) => assert!(!labels.is_empty() && labels.iter().all(|&label| label < 10)),
        Err(DecodeError::Fault(_)) => {}
        Err(DecodeError::Io(error)) => panic!("{error} from a source that can't fail"),
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_plain_or_gzipped(
        classes in prop::collection::vec(0u8..10, 1..40),
        shade in any::<u8>(),
    ) {
        let pixels: Vec<u8> =
            (0..classes.len() * PIXELS).map(|at| (at % 251) as u8 ^ shade).collect();
        let (image_file, label_file) = (image_file(&pixels), label_file(&classes));
        prop_assert_eq!(images(&*image_file).unwrap(), &pixels[..]);
        prop_assert_eq!(images(&*gzip(&image_file)).unwrap(), &pixels[..]);
        prop_assert_eq!(labels(Dribble(&label_file)).unwrap(), &classes[..]);
        prop_assert_eq!(labels(Dribble(&gzip(&label_file))).unwrap(), &classes[..]);
    }

    #[test]
    fn every_shorter_and_every_longer_file_is_refused(
        classes in prop::collection::vec(0u8..10, 1..40),
        cut in any::<prop::sample::Index>(),
        more in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        for whole in [label_file(&classes), gzip(&label_file(&classes))] {
            prop_assert!(labels(&whole[..cut.index(whole.len())]).is_err());
            prop_assert!(labels(&*[&whole[..], &more].concat()).is_err());
        }
        let pixels = vec![7; classes.len() * PIXELS];
        let whole = image_file(&pixels);
        prop_assert!(images(&whole[..cut.index(whole.len())]).is_err());
        prop_assert!(images(&*[&whole[..], &more].concat()).is_err());
    }

    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let files = [image_file(&[3; 2 * PIXELS]), label_file(&[1, 2, 3])];
        for file in files.iter().flat_map(|file| [file.clone(), gzip(file)]) {
            let mut changed = file;
            for (place, byte) in &changes {
                let place = place.index(changed.len().min(40));
                changed[place] = *byte;
            }
            check_promises(&changed);
        }
    }

    #[test]
    fn any_header_and_any_bytes_never_panic(
        magic in prop::sample::select(vec![[0, 0, 8, 1], [0, 0, 8, 3], [0x1f, 0x8b, 8, 0]]),
        dimensions in prop::collection::vec(any::<u32>(), 0..4),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        check_promises(&bytes);
        check_promises(&[header(magic, &dimensions), bytes].concat());
    }
}
