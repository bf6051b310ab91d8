// What the surfaces of instances share; each surface adds its own main().
in vec3 world, world_normal, local, local_normal;
flat in vec4 kind;
flat in vec3 color;
flat in vec2 id;
layout(location = 0) out vec4 pixel;
layout(location = 1) out uvec2 ids_out;

void finish(vec3 c, vec3 n, float gloss, float glow) {
  vec3 x = mix(lit(c, n, world, gloss), c * 1.3, glow);
  pixel = vec4(fogged(x, world), 1);
  ids_out = uvec2(id + 0.5);
}
