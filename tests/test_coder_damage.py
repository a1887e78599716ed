"""A damaged copy of a coder is refused by name when it is read, or by the gate.

Every tensor of every format's file is transposed, cut short, renamed and filled with NaN; the
matrices are scaled too, which no shape shows. The gate is given what the whole coder makes of
random states, and noise: states that are described rightly if it is read as it was made.
"""

import shutil
from dataclasses import replace

import pytest
import torch

from coder_files import read, spoiled, weights_of, write
from glossator.coders import load_coder
from glossator.errors import InputError
from glossator.gate import check_coder
from golden_coders import GOLDEN, MEANT, NAMES

L = 24
# Statistics of the training, and what another file or the settings say too.
IDLE = {
    *("k", "group_sizes", "threshold of dictionary_learning_topk"),
    *("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


class Copy:
    """A copy of a golden coder with biases so low that few of its latents are active."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder / name
        shutil.copytree(GOLDEN / name, self.folder)
        self.files = {path: read(path) for path in weights_of(self.folder, MEANT.get(name))}
        whole = self.load()
        made = torch.Generator().manual_seed(1)
        self.x = torch.randn(128, whole.width, generator=made)
        pre = torch.addmm(whole.encoder_bias, whole.encoder_input(self.x), whole.encoder_weight.T)
        low = pre.quantile(0.85, dim=0) - getattr(whole.rule, "values", torch.zeros(L))
        for path, held in self.files.items():
            for key, tensor in held.items():
                if isinstance(tensor, torch.Tensor) and torch.equal(tensor, whole.encoder_bias):
                    held[key] = tensor - low.clamp(min=0)
            write(path, held)
        self.whole = self.load()
        latents, activations = self.whole.encode(self.x)
        said = self.whole.decode(latents, activations, self.x)
        noise = torch.randn(said.shape, generator=made)
        self.target = said + 0.02 * float(said.std()) * noise
        self.l0 = float((activations > 0).sum()) / len(self.x)

    def load(self):
        return load_coder(self.folder, MEANT.get(self.name))

    def gate(self, coder):
        """What the gate says, given that the files declare the L0 of the whole coder."""
        declared = {**coder.declared, "l0": self.l0}
        return check_coder(replace(coder, declared=declared), self.x, self.target)

    def tensors(self):
        """The file, the name and the tensor of each that is not a lone number."""
        for path, held in self.files.items():
            for key, tensor in held.items():
                if isinstance(tensor, torch.Tensor) and tensor.ndim:
                    yield path, key, tensor

    def damaged(self, path, held):
        """The coder that is read from other tensors; the file is mended after."""
        write(path, held)
        try:
            return self.load()
        finally:
            write(path, self.files[path])

    def decides(self, key):
        return key not in IDLE and f"{key} of {self.name}" not in IDLE


@pytest.fixture(scope="module", params=NAMES)
def copy(request, tmp_path_factory):
    return Copy(request.param, tmp_path_factory.mktemp("damaged"))


def test_the_whole_coder_passes(copy):
    report = copy.gate(copy.whole)
    assert report.verdict == "passes", report.line
    assert report.figures.l0 < L / 4
    assert (report.figures.unexplained is None) == bool(copy.whole.decoders)


@pytest.mark.parametrize("way", ["transposed", "truncated", "renamed", "nan"])
def test_no_damage_to_a_tensor_goes_unnoticed(copy, way):
    for path, key, tensor in copy.tensors():
        held = dict(copy.files[path])
        if way == "renamed":
            held[f"{key}_"] = held.pop(key)
        elif way == "nan":
            if not tensor.is_floating_point():
                continue
            held[key] = tensor.clone(memory_format=torch.contiguous_format)
            held[key].view(-1)[-1] = float("nan")
        else:
            held[key] = spoiled(tensor, way)
        try:
            coder = copy.damaged(path, held)
        except InputError as error:
            said = str(error)
            assert "\n" not in said
            assert str(copy.folder) in said
            assert "`" in said.replace(str(path), "")
            continue
        # What is read all the same says what was left over, or is no other coder, or is refused.
        if way == "renamed":
            assert any(f"`{key}_`" in line for line in coder.declared["warnings"]), key
        elif copy.decides(key):
            assert coder.hash != copy.whole.hash, f"{key} decides nothing"
            _assert_refused(copy, coder, f"{key} {way}")
        else:
            assert coder.hash == copy.whole.hash


def test_a_matrix_on_another_scale_is_refused_by_the_gate(copy):
    matrices = [(path, key) for path, key, tensor in copy.tensors() if tensor.ndim > 1]
    decoders = [(path, key) for path, key in matrices if "dec" in key.lower() or "W_D" in key]
    encoders = [each for each in matrices if each not in decoders and "sk" not in each[1].lower()]
    assert (len(encoders), len(decoders)) == (1, 1)
    # Of what a cross-layer coder writes the share is not known that is its own: too much shows.
    smaller = 4.0 if copy.whole.decoders else 0.25
    for (path, key), factor in ((encoders[0], 4.0), (decoders[0], smaller)):
        held = {**copy.files[path], key: copy.files[path][key] * factor}
        if copy.name == "openai_tied":
            with pytest.raises(InputError, match="which it repeats in a tied coder"):
                copy.damaged(path, held)
        else:
            _assert_refused(copy, copy.damaged(path, held), f"{key} times {factor}")


def _assert_refused(copy, coder, what):
    if coder.width != copy.whole.width or coder.width_out != copy.whole.width_out:
        with pytest.raises(InputError, match="shape"):
            copy.gate(coder)
        return
    report = copy.gate(coder)
    assert report.verdict == "misread", f"{what}: {report.line}"
    assert "\n" not in report.line
    assert copy.name in report.line
