"""OD-LLM (arXiv 2601.09306): each linear layer becomes two thin ones, fitted to its real inputs.

Of a layer y = Wx with inputs X, [in, tokens], the paper whitens by C = XXᵀ = SSᵀ, truncates the
singular values of WS to W' = U_r Σ_r V_rᵀ S⁻¹ (as SVD-LLM, Wang et al., ICLR 2025), and fits the
left factor anew to the inputs X' that leave the compressed layers below. We take the same W' as
U_r U_rᵀ W, with U_r the leading eigenvectors of W C Wᵀ = U Σ² Uᵀ: no Cholesky factor, no inverse,
and a rank-deficient C does no harm.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from trsr.errors import ModelError
from trsr.models.hf.low_rank import factorised
from trsr.models.settings import CompressSettings
from trsr.models.token_tree.kv_cache import decoder_of
from trsr.models.token_tree.tokens import Tokens, common
from trsr.progress import Progress, Silent
from trsr.storage import files

ENOUGH = 10
"""Calibration tokens for each number of the widest input: with fewer, more would still help."""

RANKS = "ranks.json"


@dataclass(frozen=True)
class Row:
    """One case's prompts in one causal pass: what they share once, and all behind it.

    Attributes:
        ids: The tokens, the shared ones first.
        positions: Each token's place in its own prompt.
        begins: Where each prompt's own tokens begin, and the end.
        known: How many tokens at the start stood just so in an earlier row: they count once.
    """

    ids: Tokens
    positions: tuple[int, ...]
    begins: tuple[int, ...]
    known: int

    @property
    def mask(self) -> Tensor:
        """[1, 1, tokens, tokens]: whether a token (row) attends to another one (column)."""
        own = torch.bucketize(
            torch.arange(len(self.ids)), torch.tensor(self.begins[:-1]), right=True
        )
        seen = own[:, None] == own[None, :]
        seen[:, : self.begins[0]] = True
        return seen.tril()[None, None]


def rows_of(cases: Sequence[Sequence[Tokens]]) -> list[Row]:
    """One row a case, of its prompts' tokens."""
    made: list[Row] = []
    for prompts in cases:
        ordered = sorted(set(prompts))
        shared = common(ordered[0], ordered[-1])
        ids, positions, begins = list(ordered[0][:shared]), list(range(shared)), [shared]
        for prompt in ordered:
            ids += prompt[shared:]
            positions += range(shared, len(prompt))
            begins.append(len(ids))
        known = max((common(ordered[0][:shared], row.ids) for row in made), default=0)
        made.append(Row(tuple(ids), tuple(positions), tuple(begins), known))
    return made


@dataclass
class Compressed:
    """What was done.

    Attributes:
        network: The network that was given, its layers replaced.
        tokens: Distinct calibration tokens.
        widest: Numbers of the widest input of a compressed layer.
        ranks: The rank of each compressed layer.
        whole: Why each other layer was left whole, by name.
        losses: Of each compressed layer the share of its output's sum of squares on the calibration
            prompts that is lost: as truncated, on the whole model's inputs; and on the inputs that
            it gets in the compressed model, before alignment and after it.
    """

    network: Any
    tokens: int
    widest: int = 0
    ranks: dict[str, int] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    losses: dict[str, tuple[float, ...]] = field(default_factory=dict)


def compress(
    network: Any,
    cases: Sequence[Sequence[Tokens]],
    settings: CompressSettings,
    state: Path,
    progress: Progress | None = None,
) -> Compressed:
    """Compresses a decoder's linear layers in place; embeddings, norms and the head stay whole.

    The network is in fp32, its adapter merged; cases are their prompts as tokens. Finished layers
    lie in `state`, where a stopped call goes on.

    Raises:
        ModelError: If the model has no layer that can be compressed, the prompts have fewer
            distinct tokens than a layer has inputs, or an input is not finite.
    """
    with torch.no_grad():
        return _Compressor(network, rows_of(cases), settings, state, progress or Silent()).run()


@dataclass(frozen=True)
class Spectrum:
    """A layer's outputs on its calibration inputs, taken apart.

    Attributes:
        vectors: U, [out, k], fp64; their squared singular values fall.
        energies: σ² of each, [k].
        rows: Uᵀ W, [k, in].
    """

    vectors: Tensor
    energies: Tensor
    rows: Tensor

    @classmethod
    def of(cls, weight: Tensor, gram: Tensor) -> Spectrum:
        """Of a weight [out, in], and the inputs' C = XXᵀ [in, in], fp64."""
        # W = QR: the eigenvectors of W C Wᵀ are Q times those of R C Rᵀ, which is never larger
        # than [in, in]
        basis, small = torch.linalg.qr(weight.cpu().double())
        energies, vectors = torch.linalg.eigh(small @ gram @ small.T)
        vectors = vectors.flip(1)
        return cls(basis @ vectors, energies.flip(0).clamp(min=0), vectors.T @ small)

    def lost(self, rank: int) -> float:
        """The share of the sum of squares that the first `rank` singular values leave out."""
        return float(self.energies[rank:].sum() / self.energies.sum().clamp(min=1e-300))


@dataclass
class Alignment:
    """Sums over tokens for the left factor that fits best: U' = Y Dᵀ (D Dᵀ)⁻¹, D = AX'.

    Attributes:
        down: A, [rank, in].
        inner: D Dᵀ, fp64.
        cross: Y Dᵀ, fp64.
        total: The sum of squares of Y.
    """

    down: Tensor
    inner: Tensor
    cross: Tensor
    total: float = 0.0

    def add(self, inputs: Tensor, wanted: Tensor) -> None:
        """Some tokens: what they bring in, [tokens, in], and what is to come out, [tokens, out]."""
        low = inputs @ self.down.T
        self.inner += (low.T @ low).cpu().double()
        self.cross += (wanted.T @ low).cpu().double()
        self.total += float(wanted.square().sum())

    def best(self) -> Tensor:
        """U', [out, rank], fp64."""
        inverse: Tensor = torch.linalg.pinv(self.inner, hermitian=True)
        return self.cross @ inverse

    def lost(self, up: Tensor) -> float:
        """The share of Y's sum of squares that U lacks."""
        fitted = 2 * (up * self.cross).sum() - (up @ self.inner * up).sum()
        return float(1 - fitted / max(self.total, 1e-300))


class _Compressor:
    def __init__(
        self,
        network: Any,
        rows: list[Row],
        settings: CompressSettings,
        state: Path,
        progress: Progress,
    ) -> None:
        self._rows, self._settings, self._state = rows, settings, state
        self._progress = progress
        self._decoder = decoder_of(network)
        lists = (one for one in self._decoder.children() if isinstance(one, nn.ModuleList))
        self._layers = next(lists, nn.ModuleList())
        _check_attention(self._decoder)
        within = {id(module): name for name, module in network.named_modules()}
        self._above = within.get(id(self._layers), "")
        self._made = Compressed(network, sum(len(row.ids) - row.known for row in rows))
        self._linears: dict[str, nn.Linear] = {}
        for number, layer in enumerate(self._layers):
            found, whole = _compressible(layer, settings.ratio)
            self._linears |= {self._name(number, name): one for name, one in found.items()}
            self._made.whole |= {self._name(number, name): why for name, why in whole.items()}
        self._check_size()

    def _name(self, number: int, name: str) -> str:
        return f"{self._above}.{number}.{name}"

    def _check_size(self) -> None:
        made = self._made
        if not self._linears:
            some = ", ".join(f"{name}: {why}" for name, why in [*made.whole.items()][:3])
            raise ModelError(f"compress: no layer of the model can be compressed ({some})")
        made.widest = max(one.in_features for one in self._linears.values())
        if made.tokens < made.widest:
            raise ModelError(
                f"compress: the calibration prompts have {made.tokens:,} distinct tokens, fewer "
                f"than a layer has inputs ({made.widest:,}): raise compress.cases, or prepare more "
                "training cases"
            )

    def run(self) -> Compressed:
        by_loss = self._settings.ranks == "by_loss"
        self._progress.begin((1 + by_loss) * len(self._layers), "layers")
        starts = [self._start(row) for row in self._rows]
        whole = [hidden for hidden, _ in starts]
        own, more = whole, [more for _, more in starts]
        self._made.ranks = self._by_loss(whole, more) if by_loss else self._even()
        for number, layer in enumerate(self._layers):
            # layers share their settings, in which a pass names its attention
            made = copy.deepcopy(layer, {id(self._decoder.config): self._decoder.config})
            file = self._state / f"{number}.safetensors"
            if files.is_file(file):
                self._restore(number, made, file)
                whole = [_run(layer, *one) for one in zip(whole, more, strict=True)]
            else:
                whole = self._factor(number, layer, made, whole, own, more)
                self._save(number, made, file)
            if self._settings.align != "none":
                own = [_run(made, *one) for one in zip(own, more, strict=True)]
            self._layers[number] = made
            self._progress.advance()
        return self._made

    def _start(self, row: Row) -> tuple[Tensor, dict[str, Any]]:
        """What the first layer gets of a row: hidden states, and what all layers get."""
        device = next(self._decoder.parameters()).device
        with _Watch(self._layers[0], [""], "") as watch:
            self._decoder(
                input_ids=torch.tensor([row.ids], device=device),
                position_ids=torch.tensor([row.positions], device=device),
                attention_mask=row.mask.to(device),
                use_cache=False,
            )
        return watch.inputs[""], watch.more

    def _even(self) -> dict[str, int]:
        return {name: _rank(one, self._settings.ratio) for name, one in self._linears.items()}

    def _by_loss(self, hidden: list[Tensor], more: list[dict[str, Any]]) -> dict[str, int]:
        """Ranks by what a singular value holds of its layer's output for each number it costs.

        A layer whose factors would come to hold as many numbers as it does has none: it stays.
        """
        file = self._state / RANKS
        if files.is_file(file):
            self._progress.advance(len(self._layers))
            return self._smaller(files.read_json(file))
        gains, costs, names, sizes = [], [], [], []
        for number, layer in enumerate(self._layers):
            inputs, hidden = self._inputs(layer, hidden, more)
            for inner, gram in self._groups(number, inputs):
                for name in (self._name(number, one) for one in inner):
                    weight = self._linears[name].weight
                    energies, cost = Spectrum.of(weight, gram).energies, sum(weight.shape)
                    # from the break-even on a further rank costs more than the whole matrix
                    most = _rank(self._linears[name], 1)
                    # a few round ranks: where matrix units multiply, each is compiled anew
                    step = 1 << max(most.bit_length() - 3, 0)
                    steps = torch.split(energies[:most], step)
                    gains.append(torch.stack([one.mean() for one in steps]) / energies.sum() / cost)
                    costs.append(torch.tensor([cost * len(one) for one in steps]))
                    sizes += [len(one) for one in steps]
                    names += [name] * len(gains[-1])
            self._progress.advance()
        order = torch.cat(gains).argsort(descending=True, stable=True)
        budget = self._settings.ratio * sum(one.weight.numel() for one in self._linears.values())
        spent = torch.cat(costs)[order].cumsum(0)
        ranks = dict.fromkeys(self._linears, 0)
        for place in order[spent <= budget].tolist():
            ranks[names[place]] += sizes[place]
        files.write_json(file, ranks)
        return self._smaller(ranks)

    def _smaller(self, ranks: Mapping[str, int]) -> dict[str, int]:
        found = {}
        for name, rank in ranks.items():
            if rank < _rank(self._linears[name], 1):
                found[name] = max(1, rank)
            else:
                self._made.whole[name] = "it would lose too much"
        return found

    def _inputs(
        self, layer: nn.Module, hidden: list[Tensor], more: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
        """Of each row what the layer's linear layers get, [tokens, in]; and what it gives."""
        names = list(_compressible(layer, self._settings.ratio)[0])
        found, after = [], []
        for row, one, kwargs in zip(self._rows, hidden, more, strict=True):
            with _Watch(layer, names) as watch:
                after.append(_run(layer, one, kwargs))
            found.append({name: x[0, row.known :] for name, x in watch.inputs.items()})
        return found, after

    def _groups(
        self, number: int, inputs: list[dict[str, Tensor]]
    ) -> Iterator[tuple[list[str], Tensor]]:
        """The linear layers with one input, in the order of the pass, and that input's C = XXᵀ."""
        groups: dict[int, list[str]] = {}
        for name, x in inputs[0].items():
            groups.setdefault(x.data_ptr(), []).append(name)
        for names in groups.values():
            # products of a row in fp32, their sum in fp64
            size = inputs[0][names[0]].shape[1]
            gram = torch.zeros(size, size, dtype=torch.float64)
            for x in (one[names[0]] for one in inputs):
                gram += (x.T @ x).cpu().double()
            for name in names:
                weight = self._linears[self._name(number, name)].weight
                if not (torch.isfinite(gram).all() and torch.isfinite(weight).all()):
                    raise ModelError(
                        f"compress: weights or inputs of {self._name(number, name)} are not finite "
                        "on the calibration prompts: the model or its adapter is broken; train "
                        "again with a lower train.learning_rate"
                    )
            yield names, gram

    def _factor(
        self,
        number: int,
        layer: nn.Module,
        made: nn.Module,
        whole: list[Tensor],
        own: list[Tensor],
        more: list[dict[str, Any]],
    ) -> list[Tensor]:
        """Compresses a copy of a layer; gives what the layer itself makes of the rows."""
        inputs, after = self._inputs(layer, whole, more)
        for names, gram in self._groups(number, inputs):
            pairs: dict[str, tuple[Tensor, Tensor]] = {}
            for name in names:
                rank = self._made.ranks.get(self._name(number, name))
                if rank is None:
                    continue
                spectrum = Spectrum.of(_linear(layer, name).weight, gram)
                pairs[name] = spectrum.rows[:rank], spectrum.vectors[:, :rank]
                self._made.losses[self._name(number, name)] = (spectrum.lost(rank),)
            if pairs and self._settings.align != "none":
                pairs = self._aligned(number, layer, made, pairs, inputs, own, more)
            for name, (down, up) in pairs.items():
                made.set_submodule(name, factorised(_linear(layer, name), down, up))
        return after

    def _aligned(
        self,
        number: int,
        layer: nn.Module,
        made: nn.Module,
        pairs: Mapping[str, tuple[Tensor, Tensor]],
        inputs: list[dict[str, Tensor]],
        own: list[Tensor],
        more: list[dict[str, Any]],
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """The same pairs, each left factor fitted to what comes out of the layers before."""
        first = next(iter(pairs))
        sums = {
            name: Alignment(
                down.float().to(_linear(layer, name).weight.device),
                down.new_zeros(len(down), len(down)),
                up.new_zeros(up.shape),
            )
            for name, (down, up) in pairs.items()
        }
        for row, known, hidden, kwargs in zip(self._rows, inputs, own, more, strict=True):
            with _Watch(made, [first], first) as watch:
                _run(made, hidden, kwargs)
            x = watch.inputs[first][0, row.known :]
            for name, one in sums.items():
                wanted = x if self._settings.align == "inputs" else known[name]
                one.add(x, wanted @ _linear(layer, name).weight.T)
        found = {}
        for name, (down, up) in pairs.items():
            best = sums[name].best()
            before, after = sums[name].lost(up), sums[name].lost(best)
            self._made.losses[self._name(number, name)] += (before, after)
            found[name] = down, best
        return found

    def _save(self, number: int, made: nn.Module, file: Path) -> None:
        tensors, losses = {}, {}
        for name, losses_of in self._made.losses.items():
            place, inner = name.removeprefix(f"{self._above}.").split(".", 1)
            if place == str(number):
                losses[inner] = losses_of
                pair: Any = made.get_submodule(inner)
                tensors[f"{inner}.down"] = pair[0].weight.contiguous()
                tensors[f"{inner}.up"] = pair[1].weight.contiguous()
        with files.writing_path(file) as path:
            save_file(tensors, path, {"losses": json.dumps(losses)})

    def _restore(self, number: int, made: nn.Module, file: Path) -> None:
        with safe_open(file, framework="pt") as found:
            for name, losses in json.loads(found.metadata()["losses"]).items():
                pair = (found.get_tensor(f"{name}.{part}") for part in ("down", "up"))
                made.set_submodule(name, factorised(_linear(made, name), *pair))
                self._made.losses[self._name(number, name)] = tuple(losses)


class _Stop(Exception):  # noqa: N818 - no error: the pass has brought what was wanted
    pass


class _Watch:
    """Within the block, notes what some parts of a module get; ends the pass at one of them.

    Attributes:
        inputs: By name the first argument, in the order of the pass.
        more: The last call's named arguments.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], last: str | None = None) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.more: dict[str, Any] = {}
        self._last = last
        self._hooks = [self._hooked(module.get_submodule(name), name) for name in names]

    def _hooked(self, part: nn.Module, name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.inputs[name], self.more = args[0], kwargs
            if name == self._last:
                raise _Stop

        return part.register_forward_pre_hook(note, with_kwargs=True)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for hook in self._hooks:
            hook.remove()
        return kind is _Stop


def _run(layer: nn.Module, hidden: Tensor, more: Mapping[str, Any]) -> Tensor:
    out = layer(hidden, **more)
    states: Tensor = out[0] if isinstance(out, tuple) else out
    return states


def _linear(layer: nn.Module, name: str) -> nn.Linear:
    found = layer.get_submodule(name)
    assert isinstance(found, nn.Linear)  # noqa: S101 - `_compressible` names no other
    return found


def _rank(linear: nn.Linear, ratio: float) -> int:
    """The rank whose two factors hold that share of a layer's numbers."""
    out, into = linear.weight.shape
    return int(ratio * out * into / (out + into))


def _compressible(layer: nn.Module, ratio: float) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """A decoder layer's linear layers, by name; and why others with matrices stay whole."""
    found: dict[str, nn.Linear] = {}
    whole: dict[str, str] = {}
    blocks = [
        name.rpartition(".")[0] for name, _ in layer.named_modules() if name.endswith("experts")
    ]
    for name, module in layer.named_modules():
        if not any(one.ndim > 1 for one in module.parameters(recurse=False)):
            continue
        if any(f"{name}.".startswith(f"{block}.") for block in blocks):
            whole[name] = "part of a mixture of experts"
        elif type(module) is not nn.Linear:
            whole[name] = f"a {type(module).__name__}, not a linear layer"
        elif not _rank(module, ratio):
            whole[name] = "too small for this ratio"
        else:
            found[name] = module
    return found, whole


def _check_attention(decoder: Any) -> None:
    """Refuses attention that the calibration's own mask would not give."""
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if config.model_type == "mistral" and getattr(config, "sliding_window", None):
        kinds.add("sliding_attention")
    if kinds:
        raise ModelError(
            f"compress: the model has layers of the kind {', '.join(sorted(kinds))}; models with "
            "full attention alone can be compressed, such as Llama, Qwen 2 and 3, Mistral without "
            "a window, GPT-NeoX"
        )
