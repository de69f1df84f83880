#!/usr/bin/env python3
"""Makes images.json (golden image decoding) from the images under $OHT_TEST_DATA/images. Only their hashes and a few pixels
are kept; the freely licensed ones lie in images/.

Needs Pillow 9.4 and djpeg (Debian: python3-pil, libjpeg-turbo-progs).  Usage: OHT_TEST_DATA=DIR images_gen.py [output.json]
"""
import glob, hashlib, io, json, os, re, subprocess, sys
from PIL import Image, ImageFile, ImageOps, features
import PIL

here = os.path.dirname(os.path.abspath(__file__))
base = os.path.join(os.environ['OHT_TEST_DATA'], 'images')
SHORT, CROP = 248, 224


def sha(b):
    return hashlib.sha256(b).hexdigest()


def errtext(x):
    return re.sub(r' <_io.BytesIO object at 0x[0-9a-f]+>', '', '%s: %s' % (type(x).__name__, x))


def means(im):
    n = im.width * im.height
    h = im.histogram()
    return [round(sum(i * h[256 * c + i] for i in range(256)) / n, 6) for c in range(len(im.getbands()))]


def px(im, xy):
    return [list(im.getpixel(p)) for p in xy]


def rgb(im):
    return im.convert('RGB')


def prep(im):
    """Short side to 248 (long side floor), Pillow BICUBIC (antialiased, a=-0.5), centre crop 224."""
    w, h = im.size
    if w <= h:
        size = (SHORT, int(SHORT * h / w))
    else:
        size = (int(SHORT * w / h), SHORT)
    r = im.resize(size, Image.BICUBIC)
    top, left = int(round((size[1] - CROP) / 2.0)), int(round((size[0] - CROP) / 2.0))
    c = r.crop((left, top, left + CROP, top + CROP))
    return size, (left, top), r, c


def pnm(args, data):
    """djpeg's PPM/PGM as (magic, w, h, bytes, stderr)."""
    p = subprocess.run(['djpeg', *args], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    m = re.match(rb'(P[56])\n(\d+) (\d+)\n255\n', p.stdout)
    if not m:
        return None, p.stderr.decode().strip(), p.returncode
    return (m.group(1).decode(), int(m.group(2)), int(m.group(3)), p.stdout[m.end():]), p.stderr.decode().strip(), p.returncode


def entry(path):
    raw = open(path, 'rb').read()
    e = {'file': 'data/images/' + os.path.relpath(path, base), 'bytes': len(raw), 'sha256': sha(raw)}
    try:
        im = Image.open(io.BytesIO(raw))
        e.update(format=im.format, mode=im.mode, width=im.width, height=im.height,
                 exif_orientation=im.getexif().get(0x112), progressive=bool(im.info.get('progressive')))
        if im.format == 'JPEG':
            e['sampling'] = [list(l[1:3]) for l in im.layer]
        im.load()
    except Exception as x:
        e['strict_error'] = errtext(x)
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            im = Image.open(io.BytesIO(raw))
            im.load()
            e['lenient_rgb_sha256'] = sha(rgb(im).tobytes())
            e['lenient_rgb_mean'] = means(rgb(im))
        except Exception as y:
            e['lenient_error'] = errtext(y)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    else:
        r = rgb(im)
        w, h = r.size
        pts = [(0, 0), (min(1, w - 1), 0), (w // 2, h // 2), (w - 1, h - 1)]
        e['rgb'] = {'sha256': sha(r.tobytes()), 'mean': means(r), 'points': [list(p) for p in pts], 'pixels': px(r, pts)}
        if im.mode in ('RGBA', 'LA', 'P', 'PA') and (im.mode != 'P' or 'transparency' in im.info):
            e['alpha_note'] = 'rgb drops alpha (Pillow convert("RGB")); over black / white backgrounds below'
            a = im.convert('RGBA')
            for name, bg in (('over_black', (0, 0, 0, 255)), ('over_white', (255, 255, 255, 255))):
                o = Image.alpha_composite(Image.new('RGBA', a.size, bg), a).convert('RGB')
                e[name] = {'sha256': sha(o.tobytes()), 'mean': means(o)}
        size, off, full, crop = prep(r)
        cp = [(0, 0), (1, 0), (2, 0), (0, 1), (112, 112), (223, 223)]
        e['resized'] = {'size': list(size), 'sha256': sha(full.tobytes()), 'mean': means(full)}
        e['crop'] = {'left_top': list(off), 'sha256': sha(crop.tobytes()), 'mean': means(crop),
                     'points': [list(p) for p in cp], 'pixels': px(crop, cp)}
        o = ImageOps.exif_transpose(im) if e['exif_orientation'] not in (None, 0, 1) else None
        if o is not None:
            o = rgb(o)
            e['upright'] = {'size': list(o.size), 'sha256': sha(o.tobytes()), 'pixel_0_0': list(o.getpixel((0, 0)))}
    if raw[:2] == b'\xff\xd8':
        for name, args in (('djpeg', ['-rgb', '-ppm']), ('djpeg_nosmooth', ['-rgb', '-ppm', '-nosmooth']), ('djpeg_fast_dct', ['-rgb', '-ppm', '-dct', 'fast'])):
            got, err, rc = pnm(args, raw)
            d = {'rc': rc}
            if got:
                d.update(magic=got[0], width=got[1], height=got[2], sha256=sha(got[3]))
                if name == 'djpeg' and 'rgb' in e and got[0] == 'P6':
                    d['same_as_pillow'] = d['sha256'] == e['rgb']['sha256']
            if err:
                d['stderr'] = err.splitlines()[0][:160]
            e[name] = d
    return e


files = []
for d, n in (('imagenet-samples/train/dog', 2), ('imagenet-samples/train/bird', 2), ('imagenet-samples/val/vehicle', 1), ('imagenet-samples/train/fish', 1),
             ('imagenette224/train/n01440764', 1), ('imagenette224/val/n03888257', 1), ('cifar10/train/airplane', 2), ('cifar10/test/truck', 1)):
    files += sorted(glob.glob(os.path.join(base, d, '*')))[:n]
grays = [p for p in sorted(glob.glob(os.path.join(base, 'imagenette224', '*', '*', '*'))) if Image.open(p).mode == 'L'][:1]
files += grays + sorted(glob.glob(os.path.join(base, 'odd', '*')))
dj = subprocess.run(['djpeg', '-version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.decode().splitlines()[0]
out = {
    'format': 1,
    'made_with': {'Pillow': PIL.__version__, 'pillow_libjpeg_turbo': features.version_feature('libjpeg_turbo'), 'djpeg': dj,
                  'pillow_decode': 'libjpeg defaults: islow IDCT, fancy upsampling', 'zlib': features.version_codec('zlib')},
    'rgb': 'Image.open(f).convert("RGB").tobytes(): rows top to bottom, R,G,B interleaved, EXIF orientation NOT applied; mean is per channel over all pixels',
    'resized': 'short side to 248, long side floor(248*long/short), Image.resize(size, BICUBIC) (a = -0.5, support scaled when shrinking, 8-bit fixed point, horizontal pass first)',
    'crop': 'centre 224 x 224: left = round((w-224)/2), top = round((h-224)/2), Python rounding (half to even)',
    'upright': 'where EXIF orientation is 2..8: after ImageOps.exif_transpose',
    'strict_error': 'what Pillow says by default; lenient_*: with ImageFile.LOAD_TRUNCATED_IMAGES',
    'tolerance': 'an IDCT other than islow, or merged / box upsampling, changes decoded values by a few units: then compare the means (within 0.5) instead of sha256',
    'images': [entry(p) for p in files],
}
txt = json.dumps({k: v for k, v in out.items() if k != 'images'}, indent=1)[:-2] + ',\n "images": [\n' + ',\n'.join('  ' + json.dumps(e) for e in out['images']) + '\n ]\n}\n'
json.loads(txt)
open(sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, 'images.json'), 'w').write(txt)
for e in out['images']:
    print(e['file'][12:], e.get('mode'), e.get('width'), e.get('height'), e.get('exif_orientation'), e.get('strict_error', ''), e.get('lenient_error', ''), e.get('djpeg', {}).get('same_as_pillow'), e.get('djpeg', {}).get('stderr', ''))
