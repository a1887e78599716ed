//! `glossator_core::neighbours` for Python.

use glossator_core::Compare;
use numpy::{IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::errors::{CoreError, InputError, contiguous};

/// Ids and cosines.
type Found<'py> = (Bound<'py, PyArray2<u32>>, Bound<'py, PyArray2<f32>>);

/// The `k` nearest rows by cosine of each of `rows`, among the others or among `other`; exact.
///
/// `progress` is called with the pairs of blocks done and all of them, ten times a second; what it
/// raises ends the search. `portable` keeps to instructions that every processor has.
#[pyfunction]
#[pyo3(signature = (
    rows: "NDArray[np.float32]",
    other: "NDArray[np.float32] | None",
    k: "int",
    progress: "Callable[[int, int], object] | None" = None,
    *,
    portable: "bool" = false,
) -> "tuple[NDArray[np.uint32], NDArray[np.float32]]")]
pub fn neighbours<'py>(
    py: Python<'py>,
    rows: PyReadonlyArray2<'py, f32>,
    other: Option<PyReadonlyArray2<'py, f32>>,
    k: usize,
    progress: Option<Py<PyAny>>,
    portable: bool,
) -> PyResult<Found<'py>> {
    let (n, width) = (rows.shape()[0], rows.shape()[1]);
    if let Some(other) = &other
        && other.shape()[1] != width
    {
        return Err(InputError::new_err(format!(
            "`other` has rows of {} numbers and `decoder` of {width}; latents of two coders are \
             compared where both write to the same place",
            other.shape()[1]
        )));
    }
    let values = contiguous("decoder", rows.as_slice())?;
    let others = match &other {
        Some(other) => Some(contiguous("other", other.as_slice())?),
        None => None,
    };
    let compare = if portable {
        Compare::Portable
    } else {
        Compare::Fastest
    };
    let mut raised = None;
    let mut told = |done, total| {
        let told = Python::attach(|py| {
            py.check_signals()?;
            progress
                .as_ref()
                .map_or(Ok(()), |call| call.call1(py, (done, total)).map(drop))
        });
        told.map_err(|error| raised = Some(error)).is_ok()
    };
    let found =
        py.detach(|| glossator_core::neighbours(values, others, width, k, compare, &mut told));
    if let Some(error) = raised {
        return Err(error);
    }
    let nearest = found.map_err(CoreError::from)?.unwrap_or_default();
    Ok((
        nearest.ids.into_pyarray(py).reshape([n, k])?,
        nearest.cosines.into_pyarray(py).reshape([n, k])?,
    ))
}
