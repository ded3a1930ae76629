# SPDX-License-Identifier: Apache-2.0
"""A second decoder of version 2, written from docs/format.md alone, in simple Python.

It is slow and checks no more than decoding needs. It shares no code with the codec.
"""

import struct
import zlib

Rows = list[list[int]]


def f32(number: float) -> float:
    """The number rounded to single precision."""
    return struct.unpack("<f", struct.pack("<f", number))[0]


class Bytes:
    """Numbers taken from bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, layout: str) -> list:
        values = struct.unpack_from("<" + layout, self.data, self.position)
        self.position += struct.calcsize("<" + layout)
        return list(values)

    def one(self, layout: str):
        return self.take(layout)[0]


def read_sections(data: bytes) -> dict[str, bytes]:
    _, _, count = struct.unpack_from("<10sHH", data)
    position = 14 + 20 * count + 4
    sections = {}
    for i in range(count):
        name, length, crc = struct.unpack_from("<8sQI", data, 14 + 20 * i)
        content = data[position : position + length]
        assert zlib.crc32(content) == crc
        sections[name.rstrip(b"\0").decode()] = content
        position += length
    return sections


def clip(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))


class Rule:
    def __init__(self, source: Bytes, factors: int) -> None:
        self.most, self.bias = source.take("Bi")
        self.factors = source.take(f"{factors}i")

    def __call__(self, *terms: int) -> int:
        total = self.bias + sum(f * x for f, x in zip(self.factors, terms, strict=True))
        return clip(total >> 16, 0, self.most)


class Model:
    """The section `model`."""

    def __init__(self, content: bytes) -> None:
        source = Bytes(zlib.decompress(content))
        self.layers = [source.take("IIB") for _ in range(source.one("B"))]
        self.degree = source.one("B")
        self.channels = 3 * ((self.degree + 1) ** 2 - 1)
        self.origin, self.cell = source.take("3f"), source.one("f")
        self.bits, self.levels = source.take("BB")
        self.position_shift = Rule(source, 4)
        self.opacity, self.scale = source.take("2fH"), source.take("2fH")
        self.by_opacity = source.take(f"{self.opacity[2]}i")
        self.factors, self.centre = source.take("3i"), source.take("3i")
        self.radii = source.take(f"{source.one('B')}I")
        self.by_shell = source.take(f"{len(self.radii) + 1}i")
        self.rotation_step, self.rotation_shift = source.one("f"), Rule(source, 4)
        self.dc_step, self.dc_low = source.one("f"), source.take("3i")
        self.dc_matrix = [source.take("3h") for _ in range(3)]
        self.dc_shift = Rule(source, 1)
        self.sh_steps = source.take("32f")
        self.sh_matrix = [source.take(f"{self.channels}h") for _ in range(self.channels)]
        self.is_shared = source.position < len(source.data)
        assert not self.is_shared or source.one("B") == 1
        assert source.position == len(source.data)

    def predicted(self, o: int, s: list[int], cell: list[int]) -> int:
        squared = sum((x - c) ** 2 for x, c in zip(cell, self.centre, strict=True))
        shell = sum(radius**2 <= squared for radius in self.radii)
        total = self.by_opacity[o] + self.by_shell[shell]
        total += sum(f * x for f, x in zip(self.factors, s, strict=True))
        return clip(total >> 16, 0, 31)


class Tables:
    """The section `tables`, and the numbering of contexts."""

    NAMES = ("opacity", "scale0", "scale1", "scale2", "dc0", "dc1", "dc2", "groups")

    def __init__(self, content: bytes) -> None:
        source = Bytes(zlib.decompress(content))
        self.edges = {name: source.take("7H") for name in self.NAMES}
        contexts, histograms = source.take("II")
        self.context_map = source.take(f"{contexts}B")
        lengths = [n + 1 for n in source.take(f"{histograms}B")]
        low, high = source.take(f"{sum(lengths)}B"), source.take(f"{sum(lengths)}B")
        entries = [a + 256 * b for a, b in zip(low, high, strict=True)]
        self.histograms = []
        for length in lengths:
            self.histograms.append(entries[:length])
            entries = entries[length:]
        self.first: dict[str, int] = {}
        self.used = 0

    def histogram(self, plane: str, size: int, ctx: int) -> list[int]:
        if plane not in self.first:
            self.first[plane] = self.used
            self.used += size
        assert 0 <= ctx < size
        return self.histograms[self.context_map[self.first[plane] + ctx]]

    def bin(self, name: str, value: int) -> int:
        return sum(edge <= value for edge in self.edges[name])


class LayerReader:
    """Tokens, plain bits and planes of one layer."""

    def __init__(self, tables: Tables, lanes: int, rans: bytes, bits: bytes) -> None:
        self.tables, self.lanes = tables, lanes
        words = list(struct.unpack(f"<{len(rans) // 2}H", rans))
        self.states = list(struct.unpack_from(f"<{lanes}I", rans))
        self.words = words[2 * lanes :][::-1]
        self.bit_bytes = list(bits)[::-1]

    def token(self, lane: int, histogram: list[int]) -> int:
        v = self.states[lane] % 4096
        token = start = 0
        while v >= start + histogram[token]:
            start += histogram[token]
            token += 1
        frequency = histogram[token]
        self.states[lane] = frequency * (self.states[lane] >> 12) + v - start
        if self.states[lane] < 2**16:
            self.states[lane] = self.states[lane] * 2**16 + self.words.pop()
        return token

    def plane(self, name: str, size: int, contexts: list[int]) -> list[int]:
        self.tables.first.setdefault(name, self.tables.used)
        if self.tables.first[name] == self.tables.used:
            self.tables.used += size
        tokens = [
            self.token(i % self.lanes, self.tables.histogram(name, size, ctx))
            for i, ctx in enumerate(contexts)
        ]
        return self.values(tokens)

    def near_plane(self, name: str, size: int, contexts: list[int], shifts: list[int]) -> list[int]:
        self.plane(name, 8 * size, [])
        average = [16 * self.tables.edges[name][3]] * self.lanes
        tokens = []
        for i, ctx in enumerate(contexts):
            lane = i % self.lanes
            ctx = ctx * 8 + self.tables.bin(name, average[lane] >> 4)
            token = self.token(lane, self.tables.histogram(name, 8 * size, ctx))
            m = min(2047, token if token < 232 else 231 + 2 ** (token - 232))
            average[lane] += (16 * (m << shifts[i]) - average[lane]) >> 2
            tokens.append(token)
        return self.values(tokens)

    def values(self, tokens: list[int]) -> list[int]:
        extra = self.bits([token - 232 for token in tokens if token >= 232])[::-1]
        return [t if t < 232 else 231 + 2 ** (t - 232) + extra.pop() for t in tokens]

    def bits(self, widths: list[int]) -> list[int]:
        found = [0] * len(widths)
        for bit in range(max(widths, default=0) - 1, -1, -1):
            wide = [i for i, width in enumerate(widths) if width > bit]
            for start in range(0, len(wide), 8):
                byte = self.bit_bytes.pop()
                for place, i in enumerate(wide[start : start + 8]):
                    found[i] |= (byte >> (7 - place) & 1) << bit
        return found

    def finish(self) -> None:
        assert not self.words and not self.bit_bytes
        assert all(state == 2**16 for state in self.states)


def unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def read_octree(reader: LayerReader, levels: int, count: int) -> Rows:
    """The coarse cells of all Gaussians, in Morton order."""
    if not count:
        return []
    nodes, siblings = [[0, 0, 0]], [1]
    for level in range(levels):
        sets = reader.plane(f"octree{level}", 8, [n - 1 for n in siblings])
        children, numbers = [], []
        for (x, y, z), found in zip(nodes, sets, strict=True):
            inside = [c for c in range(8) if found + 1 >> c & 1]
            children += [[2 * x + c % 2, 2 * y + c // 2 % 2, 2 * z + c // 4] for c in inside]
            numbers += [len(inside)] * len(inside)
        nodes, siblings = children, numbers
    repeats = reader.plane("repeats", 8, [n - 1 for n in siblings])
    return [node for node, more in zip(nodes, repeats, strict=True) for _ in range(more + 1)]


def step_major(count: int, lanes: int) -> list[int]:
    """The Gaussian, in Morton order, of each row."""
    starts, start = [], 0
    for lane in range(lanes):
        starts.append(start)
        start += count // lanes + (lane < count % lanes)
    return [starts[i % lanes] + i // lanes for i in range(count)]


def read_layer(
    model: Model, tables: Tables, sections: dict[str, bytes], k: int, owners: list[dict]
) -> list[dict]:
    """The integers of each Gaussian of layer k, in Morton order.

    `owners`: the Gaussians with SH of their own in earlier layers, to which those of k are added.
    """
    n, far, log_lanes = model.layers[k]
    lanes = 2**log_lanes
    reader = LayerReader(tables, lanes, sections[f"rans{k}"], sections[f"bits{k}"])
    leaves = read_octree(reader, model.levels, n)
    order = step_major(n, lanes)
    coarse = [leaves[i] for i in order]
    zeros = [0] * n
    o = reader.near_plane("opacity", 1, zeros, zeros)
    s0 = reader.near_plane("scale0", 8, [tables.bin("opacity", x) for x in o], zeros)
    bins = [tables.bin("scale0", x) for x in s0]
    drop1 = reader.near_plane("scale1", 8, bins, zeros)
    bins = [8 * b + tables.bin("scale1", x) for b, x in zip(bins, drop1, strict=True)]
    drop2 = reader.near_plane("scale2", 64, bins, zeros)
    s = [[a, a - b, a - b - c] for a, b, c in zip(s0, drop1, drop2, strict=True)]
    q = [model.predicted(*row) for row in zip(o, s, coarse, strict=True)]
    differences = reader.plane("precision", 32, q)
    p = [a + unzigzag(b) for a, b in zip(q, differences, strict=True)]
    g = [model.position_shift(a, *b) for a, b in zip(p, s, strict=True)]
    low = [reader.bits([model.bits - model.levels - x for x in g]) for _ in range(3)]
    r = [model.rotation_shift(a, *b) for a, b in zip(p, s, strict=True)]
    rotation, before = [], zeros
    for axis in range(3):
        contexts = [(axis * 16 + a) * 4 + min(b, 3) for a, b in zip(r, before, strict=True)]
        found = reader.plane("rotation", 192, contexts)
        rotation.append([unzigzag(x) for x in found])
        before = [max(b, x * 2**a >> 4) for a, b, x in zip(r, before, found, strict=True)]
    e = [model.dc_shift(x) for x in p]
    dc = [reader.near_plane(f"dc{channel}", 16, e, e) for channel in range(3)]
    used, sh = read_sh(reader, model.channels, p, lanes)
    gaussians: list[dict] = [{} for _ in range(n)]
    for i, place in enumerate(order):
        fine = model.bits - model.levels
        gaussians[place] = {
            "cell": [(c << fine) + (low[a][i] << g[i]) for a, c in enumerate(coarse[i])],
            "o": o[i], "s": s[i], "p": p[i], "g": g[i], "r": r[i], "e": e[i],
            "rotation": [rotation[a][i] for a in range(3)],
            "dc": [dc[a][i] for a in range(3)],
            "sh": sh[i],
        }  # fmt: skip
    if model.is_shared:
        owners += [gaussians[place] for place in sorted(order[i] for i in range(n) if used[i])]
        without = [gaussians[order[i]] for i in range(n) if not used[i]]
        numbers = read_owners(reader, k, len(owners), len(without))
        for gaussian, v in zip(without, numbers, strict=True):
            gaussian["owner"] = owners[v - 1] if v else None
    reader.finish()
    put_exact_numbers(gaussians, far, sections.get(f"far{k}", b""), sections.get(f"exact{k}", b""))
    return gaussians


def put_exact_numbers(gaussians: list[dict], far: int, centres: bytes, content: bytes) -> None:
    """Adds the numbers of the sections `far<k>` and `exact<k>` of the layer."""
    source = Bytes(centres)
    rows = source.take(f"{far}I")
    for row in rows:
        gaussians[row]["far"] = source.take("3f")
    number = len(content) // 9
    source = Bytes(content)
    places = zip(source.take(f"{number}I"), source.take(f"{number}B"), strict=True)
    for (row, channel), value in zip(places, source.take(f"{number}f"), strict=True):
        gaussians[row].setdefault("exact", {})[channel] = value


def read_owners(reader: LayerReader, k: int, owners: int, count: int) -> list[int]:
    """For each Gaussian without SH of its own, 0 or 1 + the place of its owner."""
    b = 0
    while (owners - 1) >> b > 230:
        b += 1
    tokens = reader.plane(f"owner{k}", 1, [0] * count)
    low = reader.bits([b if token else 0 for token in tokens])
    return [1 + ((t - 1) << b) + x if t else 0 for t, x in zip(tokens, low, strict=True)]


def read_sh(reader: LayerReader, channels: int, p: list[int], lanes: int) -> tuple[list[int], Rows]:
    """Of each row, the number of used groups and the coefficients."""
    n = len(p)
    sh = [[0] * channels for _ in range(n)]
    if not channels:
        return [0] * n, sh
    used = reader.near_plane("groups", 32, p, [0] * n)
    around = [
        (used[i - lanes] if i >= lanes else 0) + (used[i + lanes] if i + lanes < n else 0)
        for i in range(n)
    ]
    energy = [0] * n
    by_use = sorted(range(n), key=lambda i: -used[i])
    for group in range(channels // 3):
        rows = [i for i in by_use if used[i] > group]
        for c in range(3 * group, 3 * group + 3):
            contexts = []
            for i in rows:
                last = int(used[i] == group + 1)
                total = sum(limit <= around[i] for limit in (2, 6))
                level = sum(
                    limit <= energy[i] for limit in (1, 4, 8, 14, 22, 32, 46, 66, 95, 140, 210)
                )
                contexts.append((last * 3 + total) * 12 + level)
            magnitudes = reader.plane(f"sh{c}", 72, contexts)
            signs = reader.bits([1 for m in magnitudes if m])[::-1]
            for i, m in zip(rows, magnitudes, strict=True):
                sh[i][c] = -m if m and signs.pop() else m
                energy[i] += 4 * min(m, 15) - (energy[i] >> 3)
    return used, sh


def times_matrix(row: list[int], matrix: Rows) -> list[int]:
    return [sum(x * line[c] for x, line in zip(row, matrix, strict=True)) for c in range(len(row))]


def values_of(model: Model, gaussian: dict) -> dict[str, list[float]]:
    """The decoded attributes of one Gaussian, by name."""
    half = (1 << gaussian["g"]) >> 1
    xyz = [
        f32(f32((c + half) * model.cell) + origin)
        for c, origin in zip(gaussian["cell"], model.origin, strict=True)
    ]
    turns = [f32(x * 2 ** gaussian["r"] * model.rotation_step) for x in gaussian["rotation"]]
    x, y, z = (f32(v * v) for v in turns)
    w = f32(max(0.0, f32(1 - f32(f32(x + y) + z))) ** 0.5)
    fine = [(d << gaussian["e"]) + low for d, low in zip(gaussian["dc"], model.dc_low, strict=True)]
    dc = times_matrix(fine, model.dc_matrix)
    owner = gaussian.get("owner") or gaussian
    sh = times_matrix(owner["sh"], model.sh_matrix)
    step = model.sh_steps[owner["p"]]
    values = {
        "xyz": gaussian.get("far", xyz),
        "opacity": [f32(f32(gaussian["o"] * model.opacity[1]) + model.opacity[0])],
        "scaling": [f32(f32(s * model.scale[1]) + model.scale[0]) for s in gaussian["s"]],
        "rotation": [w, *turns],
        "features_dc": [f32(f32(v) * model.dc_step) for v in dc],
        "features_rest": [f32(f32(v) * step) for v in sh],
    }
    for channel, value in gaussian.get("exact", {}).items():
        for name, first in (("features_rest", 7), ("features_dc", 4), ("scaling", 1)):
            if channel >= first:
                values[name][channel - first] = value
                break
        else:
            values["opacity"][0] = value
    return values


def read_model(data: bytes) -> list[dict[str, list[float]]]:
    """The decoded Gaussians of a version-2 file, in file order."""
    sections = read_sections(data)
    model, tables = Model(sections["model"]), Tables(sections["tables"])
    gaussians: list[dict] = []
    owners: list[dict] = []
    for k in range(len(model.layers)):
        gaussians += read_layer(model, tables, sections, k, owners)
    assert tables.used == len(tables.context_map)
    return [values_of(model, gaussian) for gaussian in gaussians]
