//! Parquet, row by row, decoding only the columns asked for.

use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};

use super::{Cell, Visit, open};
use crate::DataError;

pub(super) fn columns(path: &Path) -> Result<Vec<String>, DataError> {
    let reader = reader(path)?;
    Ok(schema(&reader).iter().map(|column| column.name().to_string()).collect())
}

pub(super) fn rows(path: &Path, wanted: &[String], visit: &mut Visit) -> Result<(), DataError> {
    let reader = reader(path)?;
    // Only columns of plain values are decoded. The others would cost time, and the decoder gives up on some of them.
    let mut decoded: Vec<TypePtr> = Vec::new();
    let mut template: Vec<(&String, Cell)> = Vec::new();
    for name in wanted {
        let column = schema(&reader).iter().find(|column| column.name() == name);
        let kind = column.map_or(Ok(()), |column| plain(column));
        if let (Some(column), Ok(())) = (column, kind)
            && !decoded.iter().any(|known| known.name() == name)
        {
            decoded.push(column.clone());
        }
        template.push((name, kind.map_or_else(Cell::Other, |()| Cell::Missing)));
    }
    if decoded.is_empty() {
        let count = reader.metadata().file_metadata().num_rows();
        (1..=count.unsigned_abs()).for_each(|row| visit(row, Ok(without_names(&template))));
        return Ok(());
    }
    let broken = |error| malformed(path, error);
    let projection = Type::group_type_builder("schema").with_fields(decoded).build().map_err(broken)?;
    for (number, row) in (1..).zip(reader.get_row_iter(Some(projection)).map_err(broken)?) {
        visit(number, Ok(cells(row.map_err(broken)?, &template)));
    }
    Ok(())
}

fn cells(row: Row, template: &[(&String, Cell)]) -> Vec<Cell> {
    let mut cells = without_names(template);
    for (column, field) in row.into_columns() {
        let value = cell(field);
        for (slot, _) in cells.iter_mut().zip(template).filter(|(_, (name, _))| **name == column) {
            slot.clone_from(&value);
        }
    }
    cells
}

fn without_names(template: &[(&String, Cell)]) -> Vec<Cell> {
    template.iter().map(|(_, cell)| cell.clone()).collect()
}

fn cell(field: Field) -> Cell {
    let number = |value: &dyn std::fmt::Display| Cell::Scalar(value.to_string());
    match field {
        Field::Null => Cell::Missing,
        Field::Str(text) => Cell::Text(text),
        Field::Bool(value) => number(&value),
        Field::Byte(value) => number(&value),
        Field::Short(value) => number(&value),
        Field::Int(value) => number(&value),
        Field::Long(value) => number(&value),
        Field::UByte(value) => number(&value),
        Field::UShort(value) => number(&value),
        Field::UInt(value) => number(&value),
        Field::ULong(value) => number(&value),
        Field::Float(value) => number(&value),
        Field::Double(value) => number(&value),
        _ => Cell::Other("binary or nested value"),
    }
}

/// Whether a column holds single values that [`cell`] can spell; else what it holds.
fn plain(column: &Type) -> Result<(), &'static str> {
    use ConvertedType as Is;
    if column.is_group() || column.get_basic_info().repetition() == parquet::basic::Repetition::REPEATED {
        return Err("nested value");
    }
    match (column.get_physical_type(), column.get_basic_info().converted_type()) {
        (Physical::BYTE_ARRAY, Is::UTF8 | Is::ENUM | Is::JSON) => Ok(()),
        (Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY, Is::NONE) => Err("binary"),
        (Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE, _) => Ok(()),
        (Physical::INT32 | Physical::INT64, Is::NONE) => Ok(()),
        (Physical::INT32, Is::INT_8 | Is::INT_16 | Is::INT_32 | Is::UINT_8 | Is::UINT_16 | Is::UINT_32) => {
            Ok(())
        }
        (Physical::INT64, Is::INT_64 | Is::UINT_64) => Ok(()),
        _ => Err("date, time or decimal"),
    }
}

fn schema(reader: &SerializedFileReader<std::fs::File>) -> &[Arc<Type>] {
    reader.metadata().file_metadata().schema().get_fields()
}

fn reader(path: &Path) -> Result<SerializedFileReader<std::fs::File>, DataError> {
    SerializedFileReader::new(open(path)?).map_err(|error| malformed(path, error))
}

fn malformed(path: &Path, error: ParquetError) -> DataError {
    DataError::Malformed { path: path.to_path_buf(), format: "Parquet", reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/parquet").join(name)
    }

    fn read(name: &str, wanted: &[&str]) -> Vec<(u64, Vec<Cell>)> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_string()).collect();
        let mut seen = Vec::new();
        rows(&golden(name), &wanted, &mut |row, cells| seen.push((row, cells.unwrap()))).unwrap();
        seen
    }

    fn text(text: &str) -> Cell {
        Cell::Text(text.to_string())
    }

    #[test]
    fn every_codec_gives_the_same_rows_across_row_groups() {
        for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"] {
            let rows = read(&format!("{codec}.parquet"), &["answer", "year", "uuid", "answer"]);
            assert_eq!(rows.len(), 12, "{codec}");
            let answer = text("It makes protein 7 – perhaps.");
            assert_eq!(rows[7], (8, vec![answer.clone(), Cell::Scalar("2007".into()), text("p7"), answer]));
        }
    }

    #[test]
    fn columns_are_listed_in_order() {
        let names = columns(&golden("none.parquet")).unwrap();
        assert_eq!(names, ["uuid", "question", "answer", "bio_category", "year", "tags", "made"]);
    }

    #[test]
    fn what_is_no_plain_value_is_named_and_not_decoded() {
        let rows = read("odd.parquet", &["question", "picture", "nested", "score"]);
        let other = [Cell::Other("binary"), Cell::Other("nested value")];
        assert_eq!(
            rows[0].1,
            [text("Right?"), other[0].clone(), other[1].clone(), Cell::Scalar("0.5".into())]
        );
        assert_eq!(rows[1].1[0], Cell::Missing);
        assert_eq!(rows[1].1[3], Cell::Missing);
        assert_eq!(rows[2].1[0], text(""));
        assert_eq!(read("odd.parquet", &["nested"]).len(), 5);
        assert_eq!(read("none.parquet", &["tags", "made"]).len(), 12);
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("half.parquet");
        let bytes = std::fs::read(golden("snappy.parquet")).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = columns(&path).unwrap_err().to_string();
        assert!(error.contains("not a readable Parquet file"), "{error}");
    }
}
