//! `glossator_core::types` for Python.

use glossator_core::{Peaks, TypeOptions};
use numpy::IntoPyArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::CoreError;
use crate::index::{Index, summary_columns};

/// The figures that tell the types of all latents, by name.
///
/// Over latents: those of `Index.summary`, `position_information`; and for each of `own`, `before` and
/// `pairs` (`own << 32 | before`) `_windows`, `_distinct`, `_commonest`, `_active` and
/// `_occurrences`, with the few in `_keys` and `_counts` from `_starts` on. Of the text: `offsets`,
/// `frequency`, `followed`.
#[pyfunction]
#[pyo3(signature = (index: "Index", max_tokens: "int", strongest: "int")
    -> "dict[str, NDArray[Any]]")]
pub fn latent_figures(
    py: Python<'_>,
    index: Py<Index>,
    max_tokens: usize,
    strongest: u64,
) -> PyResult<Bound<'_, PyDict>> {
    let options = TypeOptions {
        max_tokens,
        strongest,
    };
    let core = &index.get().0;
    let figures = py
        .detach(|| core.figures(options))
        .map_err(CoreError::from)?;
    let columns = summary_columns(py, figures.summary)?;
    columns.set_item(
        "position_information",
        figures.position_information.into_pyarray(py),
    )?;
    peaks(&columns, "own", figures.own)?;
    peaks(&columns, "before", figures.before)?;
    peaks(&columns, "pairs", figures.pairs)?;
    columns.set_item("offsets", figures.offsets.into_pyarray(py))?;
    columns.set_item("frequency", figures.frequency.into_pyarray(py))?;
    columns.set_item("followed", figures.followed.into_pyarray(py))?;
    Ok(columns)
}

fn peaks(columns: &Bound<'_, PyDict>, kind: &str, peaks: Peaks) -> PyResult<()> {
    let py = columns.py();
    for (name, column) in [
        ("windows", peaks.windows),
        ("distinct", peaks.distinct),
        ("commonest", peaks.commonest),
        ("active", peaks.active),
        ("occurrences", peaks.occurrences),
        ("starts", peaks.starts),
        ("keys", peaks.keys),
        ("counts", peaks.counts),
    ] {
        columns.set_item(format!("{kind}_{name}"), column.into_pyarray(py))?;
    }
    Ok(())
}
