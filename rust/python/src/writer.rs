//! `glossator_core::Writer` for Python.

use std::collections::BTreeMap;
use std::path::PathBuf;

use glossator_core::{Activity, Batch, Parameters, Writer, default_segment_contexts};
use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::errors::{CoreError, CoreResult, InputError, contiguous};

/// Builds an index in a folder, or goes on with one.
#[pyclass(module = "glossator._core")]
pub struct IndexWriter(Writer);

#[pymethods]
impl IndexWriter {
    /// Open the folder; the arguments are those of `glossator.index.IndexWriter`.
    #[new]
    #[pyo3(signature = (
        path: "str", *, n_latents: "int", context_length: "int", window: "int",
        first_context: "int", segment_contexts: "int | None", split_seed: "int",
        attributes: "dict[str, str]"
    ))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        n_latents: u32,
        context_length: u32,
        window: u32,
        first_context: u64,
        segment_contexts: Option<u64>,
        split_seed: u64,
        attributes: BTreeMap<String, String>,
    ) -> CoreResult<Self> {
        let parameters = Parameters {
            n_latents,
            context_length,
            window,
            first_context,
            segment_contexts: segment_contexts
                .unwrap_or_else(|| default_segment_contexts(context_length)),
            split_seed,
            attributes,
        };
        py.detach(|| Writer::open(&path, parameters))
            .map(Self)
            .map_err(CoreError::from)
    }

    /// The first context that the index has not been given yet.
    #[getter]
    fn next_context(&self) -> u64 {
        self.0.next_context()
    }

    /// Where the next batch goes, unless it says so itself.
    #[getter]
    fn cursor(&self) -> u64 {
        self.0.cursor()
    }

    /// Contexts in a segment.
    #[getter]
    fn segment_contexts(&self) -> u64 {
        self.0.parameters().segment_contexts
    }

    /// Add contexts with the same number of entries for every token.
    ///
    /// Documents are one per token, and all arrays C-contiguous.
    #[pyo3(signature = (
        tokens: "NDArray[np.uint32]", latents: "NDArray[np.uint32]",
        activations: "NDArray[np.float32]", document_ids: "NDArray[np.uint64]",
        mask: "NDArray[np.bool_] | None", context: "int | None"
    ) -> "None")]
    fn add(
        &mut self,
        py: Python<'_>,
        tokens: PyReadonlyArray2<'_, u32>,
        latents: PyReadonlyArray3<'_, u32>,
        activations: PyReadonlyArray3<'_, f32>,
        document_ids: PyReadonlyArray2<'_, u64>,
        mask: Option<PyReadonlyArray2<'_, bool>>,
        context: Option<u64>,
    ) -> PyResult<()> {
        self.check_width(tokens.shape())?;
        let activity = Activity::Dense {
            k: latents.shape()[2],
            latents: contiguous("latents", latents.as_slice())?,
            activations: contiguous("activations", activations.as_slice())?,
        };
        self.add_batch(py, &tokens, &document_ids, mask.as_ref(), activity, context)
    }

    /// Add contexts with one entry per activation, in any order.
    #[pyo3(signature = (
        tokens: "NDArray[np.uint32]", rows: "NDArray[np.uint64]", offsets: "NDArray[np.uint64]",
        latents: "NDArray[np.uint32]", activations: "NDArray[np.float32]",
        document_ids: "NDArray[np.uint64]", mask: "NDArray[np.bool_] | None",
        context: "int | None"
    ) -> "None")]
    fn add_coo(
        &mut self,
        py: Python<'_>,
        tokens: PyReadonlyArray2<'_, u32>,
        rows: PyReadonlyArray1<'_, u64>,
        offsets: PyReadonlyArray1<'_, u64>,
        latents: PyReadonlyArray1<'_, u32>,
        activations: PyReadonlyArray1<'_, f32>,
        document_ids: PyReadonlyArray2<'_, u64>,
        mask: Option<PyReadonlyArray2<'_, bool>>,
        context: Option<u64>,
    ) -> PyResult<()> {
        self.check_width(tokens.shape())?;
        let activity = Activity::Sparse {
            rows: contiguous("rows", rows.as_slice())?,
            offsets: contiguous("offsets", offsets.as_slice())?,
            latents: contiguous("latents", latents.as_slice())?,
            activations: contiguous("activations", activations.as_slice())?,
        };
        self.add_batch(py, &tokens, &document_ids, mask.as_ref(), activity, context)
    }

    /// Commit what is left, mark the index complete, and let go of the folder.
    #[pyo3(signature = () -> "None")]
    fn finish(&mut self, py: Python<'_>) -> CoreResult<()> {
        let writer = &mut self.0;
        py.detach(|| writer.finish()).map_err(CoreError::from)
    }

    /// Drop what is not committed, and let go of the folder.
    #[pyo3(signature = () -> "None")]
    fn abandon(&mut self) {
        self.0.abandon();
    }
}

impl IndexWriter {
    fn check_width(&self, shape: &[usize]) -> PyResult<()> {
        let length = self.0.parameters().context_length as usize;
        if shape[1] == length {
            return Ok(());
        }
        Err(InputError::new_err(format!(
            "`tokens` has {} tokens per context; the index has {length}",
            shape[1]
        )))
    }

    fn add_batch(
        &mut self,
        py: Python<'_>,
        tokens: &PyReadonlyArray2<'_, u32>,
        document_ids: &PyReadonlyArray2<'_, u64>,
        mask: Option<&PyReadonlyArray2<'_, bool>>,
        activity: Activity<'_>,
        context: Option<u64>,
    ) -> PyResult<()> {
        let mask = mask.map(|mask| contiguous("mask", mask.as_slice()));
        let batch = Batch {
            tokens: contiguous("tokens", tokens.as_slice())?,
            documents: contiguous("document_ids", document_ids.as_slice())?,
            mask: mask.transpose()?,
            activity,
        };
        let writer = &mut self.0;
        py.detach(|| writer.add(&batch, context))
            .map_err(|error| CoreError::from(error).into())
    }
}
