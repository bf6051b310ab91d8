// The camera: exposure, white balance, vignette, rain on the way, tone curve, sensor noise.
// Turned upside down, because images have their first row at the top.
in vec2 at;
uniform sampler2D scene;
uniform float exposure;
uniform vec3 balance;
out vec4 pixel;

void main() {
  vec2 uv = vec2(at.x, -at.y);
  vec3 c = texture(scene, uv * 0.5 + 0.5).rgb;
  c *= exposure * balance * (1.0 - 0.11 * dot(uv, uv));
  c = developed(c, uv);
  pixel = vec4(clamp(c + grain * speck(), 0.0, 1.0), 1);
}
