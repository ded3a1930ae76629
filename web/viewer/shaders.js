// SPDX-License-Identifier: Apache-2.0
// The three stages of a picture, in GLSL ES 3.00: Gaussians to ellipses, ellipses to pixels, pictures to the canvas.
//
// The rules are those of this project's rasteriser: pixel centres at integers, near plane at view z 0.2, the projection's
// Jacobian inside 1.3 times the view, 0.3 pixel^2 added to both variances, alpha at most 0.99 and at least 1/255.

// Gaussians per row of the data textures.
export const ROW_LENGTH = 1024;

// Quads that are drawn as one instance: one instance for each quad would be slow on most graphics cards.
export const QUADS_PER_INSTANCE = 128;

// Covers the target with one triangle.
export const WHOLE_TARGET = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
  gl_Position = vec4(corner, 0.0, 1.0);
}`;

// One fragment per Gaussian: its ellipse on the screen and its colour seen from `eye`, as the bits of floats, because
// integer targets need no extension. An opacity of 0 marks a Gaussian that is not drawn.
export const PROJECT = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
precision highp usampler2DArray;
uniform sampler2D positions;       // x, y, z, opacity
uniform sampler2D scales;          // standard deviations
uniform sampler2D rotations;       // unit quaternions w, x, y, z
uniform usampler2DArray harmonics; // 8 halves per texel and layer: coefficient by coefficient, R G B
uniform int degree;
uniform mat3 view;                 // world to camera: x right, y down, z forward
uniform vec3 eye;                  // the camera's centre in the world
uniform vec2 focal;                // pixels
uniform vec2 size;                 // pixels
uniform bool antialiasing;
layout(location = 0) out uvec4 ellipse; // centre (pixels, from the top left corner), first half axis
layout(location = 1) out uvec4 paint;   // second half axis (length), opacity, colour as three halves

ivec2 texel;
float number(int index) {
  uvec4 packed8 = texelFetch(harmonics, ivec3(texel, index >> 3), 0);
  uint pair = packed8[(index >> 1) & 3];
  vec2 both = unpackHalf2x16(pair);
  return (index & 1) == 0 ? both.x : both.y;
}

vec3 coefficient(int index) {
  return vec3(number(3 * index), number(3 * index + 1), number(3 * index + 2));
}

vec3 colour(vec3 d) {
  vec3 sum = 0.28209479177387814 * coefficient(0);
  if (degree > 0) {
    sum += 0.4886025119029199 * (d.z * coefficient(2) - d.y * coefficient(1) - d.x * coefficient(3));
  }
  float xx = d.x * d.x, yy = d.y * d.y, zz = d.z * d.z, xy = d.x * d.y, yz = d.y * d.z, xz = d.x * d.z;
  if (degree > 1) {
    sum += 1.0925484305920792 * (xy * coefficient(4) - yz * coefficient(5) - xz * coefficient(7));
    sum += 0.31539156525252005 * (2.0 * zz - xx - yy) * coefficient(6);
    sum += 0.5462742152960396 * (xx - yy) * coefficient(8);
  }
  if (degree > 2) {
    sum += -0.5900435899266435 * d.y * (3.0 * xx - yy) * coefficient(9);
    sum += 2.890611442640554 * xy * d.z * coefficient(10);
    sum += -0.4570457994644658 * d.y * (4.0 * zz - xx - yy) * coefficient(11);
    sum += 0.3731763325901154 * d.z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * coefficient(12);
    sum += -0.4570457994644658 * d.x * (4.0 * zz - xx - yy) * coefficient(13);
    sum += 1.445305721320277 * d.z * (xx - yy) * coefficient(14);
    sum += -0.5900435899266435 * d.x * (xx - 3.0 * yy) * coefficient(15);
  }
  return max(sum + 0.5, 0.0);
}

mat3 rotation_matrix(vec4 q) {
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

void main() {
  texel = ivec2(gl_FragCoord.xy);
  ellipse = uvec4(0u);
  paint = uvec4(0u);
  vec4 stored = texelFetch(positions, texel, 0);
  vec3 from_eye = stored.xyz - eye;
  vec3 p = view * from_eye;
  if (!(p.z > 0.2)) return;
  vec2 at = p.xy / p.z;
  vec2 margin = 0.65 * size / focal; // 1.3 times the tangent of half the field of view
  vec2 inside = clamp(at, -margin, margin);
  vec3 to_u = focal.x / p.z * (vec3(view[0].x, view[1].x, view[2].x) - inside.x * vec3(view[0].z, view[1].z, view[2].z));
  vec3 to_v = focal.y / p.z * (vec3(view[0].y, view[1].y, view[2].y) - inside.y * vec3(view[0].z, view[1].z, view[2].z));
  mat3 axes = rotation_matrix(texelFetch(rotations, texel, 0));
  vec3 s = texelFetch(scales, texel, 0).xyz;
  vec3 u = s * (to_u * axes), v = s * (to_v * axes);
  vec3 across = cross(u, v);
  float sharp = dot(across, across);
  float a = dot(u, u), b = dot(u, v), c = dot(v, v);
  float determinant = sharp + 0.3 * (a + c + 0.3);
  a += 0.3;
  c += 0.3;
  float opacity = stored.w;
  if (antialiasing) opacity *= sqrt(max(sharp / determinant, 2.5e-5));
  if (!(opacity >= 1.0 / 255.0) || !(determinant > 0.0)) return;
  float half_gap = length(vec2(0.5 * (a - c), b));
  float longest = 0.5 * (a + c) + half_gap;
  vec2 direction = half_gap > 0.0 && (b != 0.0 || a < c) ? normalize(vec2(b, longest - a)) : vec2(1.0, 0.0);
  vec2 centre = focal * at + 0.5 * size;
  float reach = sqrt(2.0 * log(255.0 * opacity) * longest) + 1.0;
  if (any(lessThan(centre + reach, vec2(0.0))) || any(greaterThan(centre - reach, size))) return;
  vec3 rgb = colour(normalize(from_eye));
  ellipse = floatBitsToUint(vec4(centre, direction * sqrt(longest)));
  paint = uvec4(floatBitsToUint(vec2(sqrt(determinant / longest), opacity)),
                packHalf2x16(rgb.rg), packHalf2x16(vec2(rgb.b, 0.0)));
}`;

// One quad per Gaussian, in the order of the depth sort; vertices 4 q .. 4 q + 3 are those of quad q of the instance.
export const SPLAT_VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D order; // numbers of the Gaussians, far to near
uniform usampler2D ellipses;
uniform usampler2D paints;
uniform int count;
uniform vec2 size;
out vec2 offset; // from the centre, in standard deviations
flat out vec4 splat; // colour, opacity

ivec2 texel(int index) {
  return ivec2(index % ${ROW_LENGTH}, index / ${ROW_LENGTH});
}

void main() {
  gl_Position = vec4(2.0, 2.0, 2.0, 1.0); // outside the picture
  int place = gl_InstanceID * ${QUADS_PER_INSTANCE} + (gl_VertexID >> 2);
  if (place >= count) return;
  ivec2 gaussian = texel(int(texelFetch(order, texel(place), 0).x));
  uvec4 paint = texelFetch(paints, gaussian, 0);
  float opacity = uintBitsToFloat(paint.y);
  if (opacity == 0.0) return;
  vec4 ellipse = uintBitsToFloat(texelFetch(ellipses, gaussian, 0));
  vec2 first = ellipse.zw;
  vec2 second = normalize(vec2(-first.y, first.x)) * uintBitsToFloat(paint.x);
  float reach = sqrt(2.0 * log(255.0 * opacity)) + 1e-3;
  offset = reach * vec2((gl_VertexID & 1) * 2 - 1, (gl_VertexID & 2) - 1);
  splat = vec4(unpackHalf2x16(paint.z), unpackHalf2x16(paint.w).x, opacity);
  vec2 pixel = ellipse.xy + offset.x * first + offset.y * second;
  gl_Position = vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0.0, 1.0);
}`;

export const SPLAT_FRAGMENT = `#version 300 es
precision highp float;
in vec2 offset;
flat in vec4 splat;
out vec4 result;

void main() {
  float alpha = min(0.99, splat.w * exp(-0.5 * dot(offset, offset)));
  if (alpha < 1.0 / 255.0) discard;
  result = vec4(splat.rgb * alpha, alpha);
}`;

// The pictures of one or two models on the canvas: one of them, both beside the slider, or their difference.
export const COMPOSE = `#version 300 es
precision highp float;
uniform sampler2D left;
uniform sampler2D right;
uniform int mode;    // 0: left, 1: left and right of the slider, 2: difference
uniform float split; // of the canvas' width
uniform float gain;
uniform vec2 canvas; // pixels
out vec4 result;

void main() {
  vec2 place = gl_FragCoord.xy / canvas;
  vec3 picture;
  if (mode == 2) {
    vec3 a = clamp(texture(left, place).rgb, 0.0, 1.0);
    vec3 b = clamp(texture(right, place).rgb, 0.0, 1.0);
    picture = abs(a - b) * gain;
  } else {
    picture = mode == 1 && place.x >= split ? texture(right, place).rgb : texture(left, place).rgb;
  }
  result = vec4(clamp(picture, 0.0, 1.0), 1.0);
}`;
