// The camera with what a good one lacks: smear, stray light, drops, dirt, noise of the light.
// Turned upside down, because images have their first row at the top.
in vec2 at;
uniform sampler2D scene, depth_map, lens_map;
uniform usampler2D id_map;
uniform float exposure, gain, shutter, shot;
uniform vec3 balance;
uniform mat4 smear;                     // clip space now to clip space before the shutter opened
out vec4 pixel;

vec3 seen(vec2 t) {
  vec3 c = texture(scene, t * 0.5 + 0.5).rgb;
  uint tag = texture(id_map, t * 0.5 + 0.5).r;
  if (shutter > 0.0 && tag != 14u && tag != 15u) {      // traffic moves along with the camera
    vec4 before = smear * vec4(t, texture(depth_map, t * 0.5 + 0.5).r * 2.0 - 1.0, 1.0);
    vec2 way = before.xy / before.w - t;
    way *= min(1.0, 0.15 / max(length(way), 1e-5)) / 6.0;
    t = clamp(t, -0.99, 0.99) * 0.5 + 0.5;
    c += texture(scene, t + way).rgb + texture(scene, t + 2.0 * way).rgb
      + texture(scene, t + 3.0 * way).rgb;
    c *= 0.25;
  }
  return c;
}

void main() {
  vec2 uv = vec2(at.x, -at.y);
  vec4 lens = texture(lens_map, uv * 0.5 + 0.5);
  vec3 c = seen(clamp(uv + lens.xy, -0.998, 0.998)) + sun_color * lens.z;
  c = mix(c, fog_color * 0.45 + sun_color * (0.1 + 0.9 * lens.z), lens.w);
  c *= gain * exposure * balance * (1.0 - 0.11 * dot(uv, uv));
  c = developed(c, uv);
  pixel = vec4(clamp(c + (grain + shot * 0.25 * sqrt(c)) * speck(), 0.0, 1.0), 1);
}
