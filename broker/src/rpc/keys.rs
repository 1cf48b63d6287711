//! Compacted topics take records with keys only: without one, nothing says what a record replaces.

use bytes::Bytes;
use ottla_model::ErrorCode;
use ottla_model::batch::UnpackedBatch;
use ottla_model::error::ApiError;
use ottla_model::limits::COMPACTED_UNPACKED_BYTES_MAX;

/// Refuses a batch, already validated, with a record that has no key or cannot be read.
pub fn require_keys(batch: &Bytes) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::new(ErrorCode::InvalidRecord, message));
    let unpacked = match UnpackedBatch::open(batch, COMPACTED_UNPACKED_BYTES_MAX) {
        Ok(unpacked) => unpacked,
        Err(error) => {
            return refuse(format!(
                "the topic is compacted, and the batch cannot be unpacked: {error}"
            ));
        }
    };
    let mut index = 0;
    let mut keyless = None;
    let walked = unpacked.for_each(&mut |record| {
        if record.key.is_none() {
            keyless = keyless.or(Some(index));
        }
        index += 1;
    });
    if let Err(malformed) = walked {
        return refuse(format!("record {malformed} of the batch is malformed"));
    }
    match keyless {
        Some(index) => refuse(format!(
            "record {index} of the batch has no key, but the topic is compacted: every record needs one"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ottla_model::batch::{BatchBuilder, NewRecord};
    use ottla_model::compression::Compression;

    use super::*;

    #[test]
    fn a_record_without_key_is_found_however_it_is_packed() {
        for compression in Compression::ALL {
            let batch = |keys: &[Option<&[u8]>]| {
                let mut builder = BatchBuilder::new(compression);
                for key in keys {
                    let record = NewRecord {
                        key: *key,
                        ..NewRecord::default()
                    };
                    builder.push(&record).unwrap();
                }
                builder.build().unwrap()
            };
            assert!(require_keys(&batch(&[Some(b"a"), Some(b"")])).is_ok());
            let refused = require_keys(&batch(&[Some(b"a"), None])).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidRecord);
            assert!(refused.message.contains("record 1"), "{}", refused.message);
        }
    }

    #[test]
    fn a_batch_that_cannot_be_unpacked_is_refused() {
        let mut builder = BatchBuilder::new(Compression::Zstd);
        builder.push(&NewRecord::default()).unwrap();
        let mut bytes = builder.build().unwrap().to_vec();
        bytes[61..].fill(0xee);
        assert!(require_keys(&Bytes::from(bytes)).is_err());
    }
}
