//! `glossator_core::Selector` and `Statistics` for Python.

use glossator_core::{
    BINS, Exact, Instructions, Norms, Proposed, Rule, Selected, Statistics, norms,
};
use numpy::{
    IntoPyArray, PyArray1, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray1,
    PyReadwriteArray2, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::errors::{CoreError, InputError, contiguous};

/// A matrix of float32, or of the bits of bf16.
#[derive(FromPyObject)]
pub enum Matrix<'py> {
    /// Float32.
    Float32(PyReadonlyArray2<'py, f32>),
    /// The bits of bf16.
    Bf16(PyReadonlyArray2<'py, u16>),
}

/// Starts, latents, activations, refused rows, how many were computed again.
type Found<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray1<f32>>,
    Bound<'py, PyArray1<u32>>,
    u64,
);

/// The kinds of rules, and the numbers that belong to them.
enum Kind {
    TopK(usize),
    Threshold,
    Gated,
}

/// An encoder's weights and rule: what is active, of products that are only nearly right.
#[pyclass(module = "glossator._core", frozen)]
pub struct Selector {
    weight: Py<PyAny>,
    bias: Vec<f32>,
    kind: Kind,
    first: Vec<f32>,
    second: Vec<f32>,
    norms: Norms,
    rounded: bool,
    instructions: Instructions,
}

#[pymethods]
impl Selector {
    /// `weight` is kept and read, never copied: what is exact, float32 or the bits of bf16.
    ///
    /// One of `k`, `threshold` and both of `scale` and `magnitude` is given. `rounded` says that
    /// products are of operands rounded to bf16, and stored as its bits.
    #[new]
    #[pyo3(signature = (
        weight: "NDArray[np.float32] | NDArray[np.uint16]",
        bias: "NDArray[np.float32]",
        *,
        k: "int | None" = None,
        threshold: "NDArray[np.float32] | None" = None,
        scale: "NDArray[np.float32] | None" = None,
        magnitude: "NDArray[np.float32] | None" = None,
        rounded: "bool" = true,
        portable: "bool" = false,
    ) -> "Selector")]
    fn new(
        py: Python<'_>,
        weight: Py<PyAny>,
        bias: PyReadonlyArray1<'_, f32>,
        k: Option<usize>,
        threshold: Option<PyReadonlyArray1<'_, f32>>,
        scale: Option<PyReadonlyArray1<'_, f32>>,
        magnitude: Option<PyReadonlyArray1<'_, f32>>,
        rounded: bool,
        portable: bool,
    ) -> PyResult<Self> {
        let copied = |name, array: Option<PyReadonlyArray1<'_, f32>>| {
            array.map_or(Ok(Vec::new()), |array| {
                contiguous(name, array.as_slice()).map(<[f32]>::to_vec)
            })
        };
        let kind = match (k, &threshold, &scale, &magnitude) {
            (Some(k), None, None, None) => Kind::TopK(k),
            (None, Some(_), None, None) => Kind::Threshold,
            (None, None, Some(_), Some(_)) => Kind::Gated,
            _ => {
                return Err(InputError::new_err(
                    "one rule is wanted: `k`, `threshold`, or `scale` and `magnitude`",
                ));
            }
        };
        let (first, second) = match kind {
            Kind::Threshold => (copied("threshold", threshold)?, Vec::new()),
            _ => (copied("scale", scale)?, copied("magnitude", magnitude)?),
        };
        let mut selector = Self {
            bias: copied("bias", Some(bias))?,
            weight,
            kind,
            first,
            second,
            norms: Norms::default(),
            rounded,
            instructions: if portable {
                Instructions::Portable
            } else {
                Instructions::Fastest
            },
        };
        let matrix: Matrix<'_> = selector.weight.extract(py)?;
        let (exact, width) = exact(&matrix)?;
        selector.norms = py.detach(|| norms(&exact, width.max(1), rounded));
        selector.ready(exact, width)?;
        Ok(selector)
    }

    /// The active latents of rows `x`, rounded to what is exact, by their products without bias.
    ///
    /// Returns starts int64[N + 1], latents uint32 and activations float32, row by row the strongest
    /// first; rows refused because they, or their pre-activations, hold NaN or infinity; and how many
    /// pre-activations were computed again.
    #[pyo3(signature = (
        x: "NDArray[np.float32]",
        proposed: "NDArray[np.float32] | NDArray[np.uint16]",
    ) -> "tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.float32], NDArray[np.uint32], int]")]
    fn select<'py>(
        &self,
        py: Python<'py>,
        x: PyReadonlyArray2<'py, f32>,
        proposed: Matrix<'py>,
    ) -> PyResult<Found<'py>> {
        let matrix: Matrix<'_> = self.weight.extract(py)?;
        let (exact, width) = exact(&matrix)?;
        let given = match &proposed {
            Matrix::Float32(values) => {
                Proposed::Float32(contiguous("proposed", values.as_slice())?)
            }
            Matrix::Bf16(values) => Proposed::Bf16(contiguous("proposed", values.as_slice())?),
        };
        if matches!(given, Proposed::Bf16(_)) != self.rounded {
            return Err(InputError::new_err(
                "`proposed` has another type than the selector was made for",
            ));
        }
        if x.shape()[1] != width {
            return Err(InputError::new_err(format!(
                "`x` has rows of {} numbers, the weights of {width}",
                x.shape()[1]
            )));
        }
        let x = contiguous("x", x.as_slice())?;
        let selector = self.ready(exact, width)?;
        let found = py.detach(|| selector.select(x, given));
        let Selected {
            counts,
            latents,
            activations,
            refused,
            rescored,
        } = found.map_err(CoreError::from)?;
        let mut starts = vec![0i64];
        starts.extend(counts.iter().scan(0i64, |sum, &count| {
            *sum += i64::from(count);
            Some(*sum)
        }));
        Ok((
            starts.into_pyarray(py),
            latents.into_pyarray(py),
            activations.into_pyarray(py),
            refused.into_pyarray(py),
            rescored,
        ))
    }
}

impl Selector {
    fn ready<'a>(
        &'a self,
        exact: Exact<'a>,
        width: usize,
    ) -> PyResult<glossator_core::Selector<'a>> {
        let rule = match self.kind {
            Kind::TopK(k) => Rule::TopK(k),
            Kind::Threshold => Rule::Threshold(&self.first),
            Kind::Gated => Rule::Gated {
                scale: &self.first,
                magnitude: &self.second,
            },
        };
        let (norms, how) = (self.norms, self.instructions);
        let made = glossator_core::Selector::new(exact, &self.bias, width, rule, norms, how);
        Ok(made.map_err(CoreError::from)?)
    }
}

fn exact<'a>(matrix: &'a Matrix<'_>) -> PyResult<(Exact<'a>, usize)> {
    Ok(match matrix {
        Matrix::Float32(values) => (
            Exact::Float32(contiguous("weight", values.as_slice())?),
            values.shape()[1],
        ),
        Matrix::Bf16(values) => (
            Exact::Bf16(contiguous("weight", values.as_slice())?),
            values.shape()[1],
        ),
    })
}

/// Adds activations to latents' histograms, maxima and sums (in units of 2⁻²⁰), in place.
///
/// Bin `(bits >> 19) - (119 << 4)` of an activation, from 0 to 255: 16 an octave. Entries of latent
/// 0xFFFFFFFF, and activations that are not positive, are none.
#[pyfunction]
#[pyo3(signature = (
    latents: "NDArray[np.uint32]",
    activations: "NDArray[np.float32]",
    histogram: "NDArray[np.uint32]",
    maximum: "NDArray[np.float32]",
    total: "NDArray[np.int64]",
) -> "None")]
pub fn add_statistics<'py>(
    py: Python<'py>,
    latents: PyReadonlyArray1<'py, u32>,
    activations: PyReadonlyArray1<'py, f32>,
    mut histogram: PyReadwriteArray2<'py, u32>,
    mut maximum: PyReadwriteArray1<'py, f32>,
    mut total: PyReadwriteArray1<'py, i64>,
) -> PyResult<()> {
    if histogram.shape()[1] != BINS {
        return Err(InputError::new_err(format!(
            "`histogram` has {} bins a latent, not {BINS}",
            histogram.shape()[1]
        )));
    }
    let latents = contiguous("latents", latents.as_slice())?;
    let activations = contiguous("activations", activations.as_slice())?;
    let mut statistics = Statistics {
        histogram: contiguous("histogram", histogram.as_slice_mut())?,
        maximum: contiguous("maximum", maximum.as_slice_mut())?,
        total: contiguous("total", total.as_slice_mut())?,
    };
    Ok(py
        .detach(|| statistics.add(latents, activations))
        .map_err(CoreError::from)?)
}
