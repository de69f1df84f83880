#!/usr/bin/env python3
"""Makes augment.json: what Pillow and NumPy make of small pictures, for the resampling, the 15 operations of RandAugment,
whole samples (random-resized-crop, flip, RandAugment; random numbers by Philox as in include/oht/random.h), and mixing.

Needs Pillow 9.4 (later ones resize with another rounding, up to 1 grey level away) and NumPy.
Usage: augment_gen.py [output.json]
Results are kept as SHA-256 of the bytes (rows top to bottom, R G B interleaved) and the first and middle pixel.
"""
import hashlib, io, json, math, os, random, struct, sys, zlib
import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

here = os.path.dirname(os.path.abspath(__file__))
FILTERS = {'bilinear': Image.BILINEAR, 'bicubic': Image.BICUBIC}
OPS = ['autocontrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'solarize_add', 'color', 'contrast',
       'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x', 'translate_y']


# ---- pictures that the C test makes too ------------------------------------------------------------------------------
def picture(kind, w, h):
    n, state, out = w * h * 3, 12345 + w * 1000 + h, []
    for i in range(n):
        x, y, c = i // 3 % w, i // 3 // w, i % 3
        state = (state * 1664525 + 1013904223) & 0xffffffff
        noise = state >> 24
        out.append({'noise': noise, 'ramp': (x * 7 + y * 3 + c * 40) % 256, 'soft': 90 + noise % 50 + x % 8,
                    'flat': 77 + c, 'two': 255 if noise % 2 else 3, 'edge': 255 if x > y else 0}[kind])
    return Image.frombytes('RGB', (w, h), bytes(out))


def digest(im):
    b, p = im.tobytes(), lambda x, y: list(im.getpixel((x, y)))
    return {'sha256': hashlib.sha256(b).hexdigest(), 'pixels': [p(0, 0), p(im.width // 2, im.height // 2)]}


# ---- operations ------------------------------------------------------------------------------------------------------
def argument(op, magnitude, negative):
    level, sign = magnitude / 10, -1 if negative else 1
    if op == 'rotate': return sign * level * 30
    if op == 'posterize': return int(level * 4)
    if op == 'solarize': return min(256, int(level * 256))
    if op == 'solarize_add': return min(128, int(level * 110))
    if op in ('color', 'contrast', 'brightness', 'sharpness'): return level * 1.8 + .1
    if op in ('shear_x', 'shear_y'): return sign * level * .3
    if op in ('translate_x', 'translate_y'): return sign * level * .45
    return 0


def augment(im, op, a, resample):
    fill = {'resample': resample, 'fillcolor': (128, 128, 128)}
    affine = lambda m: im.transform(im.size, Image.AFFINE, m, **fill)
    if op == 'autocontrast': return ImageOps.autocontrast(im)
    if op == 'equalize': return ImageOps.equalize(im)
    if op == 'invert': return ImageOps.invert(im)
    if op == 'rotate': return im.rotate(a, **fill)
    if op == 'posterize': return ImageOps.posterize(im, a) if a else Image.new('RGB', im.size) # newer Pillow refuses 0 bits
    if op == 'solarize': return ImageOps.solarize(im, a)
    if op == 'solarize_add': return im.point([min(255, i + a) if i < 128 else i for i in range(256)] * 3)
    if op == 'color': return ImageEnhance.Color(im).enhance(a)
    if op == 'contrast': return ImageEnhance.Contrast(im).enhance(a)
    if op == 'brightness': return ImageEnhance.Brightness(im).enhance(a)
    if op == 'sharpness': return ImageEnhance.Sharpness(im).enhance(a)
    if op == 'shear_x': return affine((1, a, 0, 0, 1, 0))
    if op == 'shear_y': return affine((1, 0, 0, a, 1, 0))
    if op == 'translate_x': return affine((1, 0, a * im.width, 0, 1, 0))
    if op == 'translate_y': return affine((1, 0, 0, 0, 1, a * im.height))


# ---- random numbers: Philox4x32-10, counter {index, sample, step, purpose << 24 | site} ------------------------------
def philox(ctr, key):
    c, k = list(ctr), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & 0xffffffff, (p0 >> 32) ^ c[3] ^ k[1], p0 & 0xffffffff]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


class Draws:
    def __init__(self, seed, purpose, step, sample):
        self.key, self.rest, self.used, self.word = (seed & 0xffffffff, seed >> 32), (sample, step, purpose << 24), 0, []

    def bits(self):
        if self.used % 4 == 0: self.word = philox((self.used // 4,) + self.rest, self.key)
        self.used += 1
        return self.word[(self.used - 1) % 4]

    def uniform(self): return self.bits() * 2.**-32
    def positive(self): return (self.bits() + .5) * 2.**-32
    def below(self, n): return self.bits() * n >> 32

    def normal(self):
        u = (self.bits() + 1) * 2.**-32
        v = self.uniform()
        return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)


# ---- whole samples ---------------------------------------------------------------------------------------------------
def crop_box(d, w, h, area=(.08, 1), ratio=(3 / 4, 4 / 3)):
    for _ in range(10):
        a = (area[0] + (area[1] - area[0]) * d.uniform()) * w * h
        r = math.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * d.uniform())
        bw, bh = round(math.sqrt(a * r)), round(math.sqrt(a / r))
        if 0 < bw <= w and 0 < bh <= h:
            top = d.below(h - bh + 1)
            return d.below(w - bw + 1), top, bw, bh
    bw, bh = w, h
    if w / h < ratio[0]: bh = max(1, round(w / ratio[0]))
    elif w / h > ratio[1]: bw = max(1, round(h * ratio[1]))
    return (w - bw) // 2, (h - bh) // 2, bw, bh


def random_augment(im, d):
    for _ in range(2):
        op, applied = OPS[d.below(15)], d.uniform() < .5
        magnitude = 9 + .5 * d.normal()
        negative = d.uniform() < .5
        resample = Image.BILINEAR if d.uniform() < .5 else Image.BICUBIC
        if applied: im = augment(im, op, argument(op, max(0., min(magnitude, 10.)), negative), resample)
    return im


def train_sample(im, size, seed, epoch, index, augmented=True):
    d = Draws(seed, 6, epoch, index)
    x, y, w, h = crop_box(d, *im.size)
    im = im.crop((x, y, x + w, y + h))
    im = im.resize((size, size), Image.BILINEAR if d.uniform() < .5 else Image.BICUBIC)
    if d.uniform() < .5: im = im.transpose(Image.FLIP_LEFT_RIGHT)
    return random_augment(im, d) if augmented else im


def evaluation_sample(im, size):
    side, (w, h) = math.floor(size / .9), im.size
    full = (side, int(side * h / w)) if w <= h else (int(side * w / h), side)
    left, top = round((full[0] - size) / 2), round((full[1] - size) / 2)
    return im.resize(full, Image.BICUBIC).crop((left, top, left + size, top + size))


# ---- mixing ----------------------------------------------------------------------------------------------------------
def beta(d, alpha):
    if alpha > 1:
        def gamma():
            a = alpha - 1 / 3
            c = 1 / math.sqrt(9 * a)
            while True:
                x = d.normal()
                v, u = (1 + c * x)**3, d.positive()
                if v > 0 and math.log(u) < .5 * x * x + a - a * v + a * math.log(v): return a * v
        x = gamma()
        y = gamma()
        return x / (x + y)
    while True:
        x = math.log(d.positive()) / alpha
        y = math.log(d.positive()) / alpha
        total = np.logaddexp(x, y)
        if total <= 0: return math.exp(x - total)


def mix(size, seed, step, group, mixup=.2, cutmix=.2, probability=.5):
    d = Draws(seed, 7, step, group)
    u = d.uniform()
    use_cutmix = u < probability if mixup and cutmix else bool(cutmix)
    lam = float(np.float32(beta(d, cutmix if use_cutmix else mixup)))
    box = [0, 0, 0, 0]
    if use_cutmix:
        side = int(size * math.sqrt(1 - lam))
        y, x = d.below(size), d.below(size)
        l, r, t, b = (min(max(v, 0), size) for v in (x - side // 2, x + side // 2, y - side // 2, y + side // 2))
        box, lam = [l, t, r, b], 1 - (r - l) * (b - t) / size**2
    return {'cutmix': use_cutmix, 'lambda': float(np.float32(lam)), 'box': box}


def mixed(a, b, m):
    a, b, out = np.asarray(a), np.asarray(b), []
    for x, y in ((a, b), (b, a)):
        if m['cutmix']:
            l, t, r, bt = m['box']
            z = x.copy()
            z[t:bt, l:r] = y[t:bt, l:r]
        else:
            lam = np.float32(m['lambda'])
            z = np.rint(x.astype(np.float32) * lam + y.astype(np.float32) * (np.float32(1) - lam)).astype(np.uint8)
        out.append(digest(Image.fromarray(z)))
    return out


# ---- every kind of PNG -----------------------------------------------------------------------------------------------
def make_png(w, h, depth, kind, interlaced, extra):
    """Random pixels; the bytes of the file."""
    chunk = lambda t, d: struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d))
    r, samples = random.Random('%d %d %d' % (depth, kind, w)), {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    pixels = [[[r.randrange(1 << depth) for _ in range(samples)] for _ in range(w)] for _ in range(h)]
    if kind == 0 and depth == 16: pixels[0][:3] = [[0], [200], [256]]
    raw = b''
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)) if interlaced else ((0, 0, 1, 1),):
        for row in pixels[y0::dy]:
            bits = ''.join(format(v, '0%db' % depth) for px in row[x0::dx] for v in px)
            if bits: raw += b'\0' + bytes(int(bits[i:i + 8].ljust(8, '0'), 2) for i in range(0, len(bits), 8))
    palette = chunk(b'PLTE', bytes(r.randrange(256) for _ in range(3 << depth))) if kind == 3 else b''
    trns = {0: b'\0\1', 2: b'\0\1\0\2\0\3', 3: b'\0\x80'}.get(kind, b'') if extra else b''
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, depth, kind, 0, 0, interlaced)) + palette +
            (chunk(b'tRNS', trns) if trns else b'') + (chunk(b'gAMA', struct.pack('>I', 10000)) if extra else b'') +
            chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))


# ---- all -------------------------------------------------------------------------------------------------------------
def main():
    resize, ops, samples, mixes, pngs = [], [], [], [], []
    for kind, w, h, tw, th in (('noise', 40, 30, 20, 15), ('noise', 40, 30, 97, 61), ('noise', 64, 64, 64, 31), ('noise', 31, 64, 64, 64),
                               ('edge', 50, 50, 17, 90), ('ramp', 200, 3, 8, 8), ('noise', 1, 1, 7, 5), ('noise', 5, 300, 1, 1),
                               ('noise', 300, 7, 2, 2), ('noise', 3, 2, 224, 224), ('flat', 33, 9, 10, 10), ('noise', 250, 333, 224, 224),
                               ('two', 61, 77, 60, 76), ('noise', 16, 16, 16, 16), ('noise', 1500, 2, 9, 3)):
        for name, f in FILTERS.items():
            resize.append({'kind': kind, 'in': [w, h], 'out': [tw, th], 'filter': name, **digest(picture(kind, w, h).resize((tw, th), f))})
    for kind, w, h in (('noise', 23, 17), ('soft', 40, 40), ('flat', 8, 8), ('two', 16, 31), ('ramp', 64, 64), ('edge', 33, 32), ('noise', 1, 1),
                       ('noise', 2, 3)):
        for op in OPS:
            signs = (False, True) if op in ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y') else (False,)
            for magnitude in (0, 2.6, 9.47):
                for negative in signs:
                    for name, f in FILTERS.items() if len(signs) > 1 else (('bilinear', None),):
                        a = argument(op, magnitude, negative)
                        ops.append({'kind': kind, 'size': [w, h], 'op': op, 'magnitude': magnitude, 'negative': negative, 'argument': a,
                                    'filter': name, **digest(augment(picture(kind, w, h), op, a, f))})
    for name in ('pillow.hopper.png', 'pillow.hopper.jpg', 'pillow.pil_sample_cmyk.jpg', 'pillow.tga_common_200x32_la.png', 'pillow.hopper_gray.jpg',
                 'pillow.tiff_16bit_RGB_target.png'):
        im = Image.open(os.path.join(here, 'images', name)).convert('RGB')
        for size in (32, 224):
            samples.append({'file': name, 'size': size, 'train': False, 'seed': 0, 'epoch': 0, 'index': 0, **digest(evaluation_sample(im, size))})
        for i in range(40):
            seed, epoch, index, size = (1000, 7 + (5 << 32))[i % 2], i % 3, i * 37 + i % 5 * 1000000, (32, 224, 97)[i % 3]
            samples.append({'file': name, 'size': size, 'train': True, 'seed': seed, 'epoch': epoch, 'index': index,
                            **digest(train_sample(im, size, seed, epoch, index))})
    for i in range(40):
        alpha = [(.2, .2), (.8, 1.), (0, .3), (2.5, 0)][i % 4]
        m = mix(32, 1000 + i % 3, i, i % 7, *alpha)
        mixes.append({'size': 32, 'seed': 1000 + i % 3, 'step': i, 'group': i % 7, 'alpha': alpha, **m,
                      'pair': mixed(picture('noise', 32, 32), picture('ramp', 32, 32), m)})
    for kind, depths in ((0, (1, 2, 4, 8, 16)), (2, (8, 16)), (3, (1, 2, 4, 8)), (4, (8, 16)), (6, (8, 16))):
        for depth in depths:
            for interlaced in (0, 1):
                for extra in (0, 1):
                    b = make_png(11, 9, depth, kind, interlaced, extra)
                    pngs.append({'hex': b.hex(), 'kind': kind, 'depth': depth, 'interlaced': interlaced, 'extra': extra,
                                 **digest(Image.open(io.BytesIO(b)).convert('RGB'))})
    out = {'made_with': {'Pillow': PIL.__version__, 'numpy': np.__version__}, 'resize': resize, 'ops': ops, 'samples': samples, 'mixes': mixes, 'pngs': pngs}
    with open(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, 'augment.json'), 'w') as f:
        f.write('{\n "made_with": %s' % json.dumps(out.pop('made_with')))
        for k, v in out.items():
            f.write(',\n "%s": [\n' % k + ',\n'.join('  ' + json.dumps(e) for e in v) + '\n ]')
        f.write('\n}\n')
    print({k: len(v) for k, v in out.items()})


if __name__ == '__main__':
    main()
